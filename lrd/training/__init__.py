"""The training loop and everything that builds, runs and resumes it.

``lrd.training.runner.execute(config, choices)`` executes one run.
"""
