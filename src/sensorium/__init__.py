"""Sensorium: published multimodal systems to train, compare, diagnose, search and serve."""

__version__ = "0.1.0"
