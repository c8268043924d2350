"""What scripts/bench.py measures with: one module a section, and what they share."""
