"""The paper's problems, each an :class:`lrd.task.Task`, with their data and models."""
