"""What scripts/gpu_check.py runs in the first minutes on a GPU."""
