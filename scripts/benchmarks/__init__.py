"""Benchmarks of the optimizer step, training and data loading, and tests of endurance."""
