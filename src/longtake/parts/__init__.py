"""The building blocks the published systems share: plain modules and functions."""
