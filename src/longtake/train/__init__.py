"""Training of the bundled model: generated data, stages, one loop."""
