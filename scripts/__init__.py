"""Commands; `scripts.benchmarks` and `scripts.paper` are packages that they use."""
