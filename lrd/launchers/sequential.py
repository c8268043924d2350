"""The launcher of a sweep without ``+cluster=``: one job after another in this process."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn

from lrd.launchers.base import JobFunction, check_jobs, job_return


class SequentialLauncher(BasicLauncher):
    """Check every job, then run one after another. Finished runs are reported in their turn."""

    def setup(self, *, task_function: Any, **context: Any) -> None:
        super().setup(task_function=task_function, **context)
        self.function: JobFunction = task_function
        self.context = context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        _, invalid = check_jobs(self.context, job_overrides, self.function.check)
        if invalid:
            self.function.failures += invalid
            return [job_return(None) for _ in job_overrides]
        return super().launch(job_overrides, initial_job_idx)
