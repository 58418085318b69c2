"""Videos in: opening, sampling and pixels."""
