"""The paper's problems, each an :class:`lrd.task.Task`."""
