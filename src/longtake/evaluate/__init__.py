"""Measure how well a model answers: needles in the user's own videos, benchmarks."""
