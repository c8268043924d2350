"""The launchers of sweeps: one job after another, ``+cluster=local`` and ``+cluster=slurm``.

Hydra accepts a plugin class only if it is defined in the namespace package ``hydra_plugins``.
"""

from lrd.launchers import local, sequential, slurm


class SequentialLauncher(sequential.SequentialLauncher):
    """See :class:`lrd.launchers.sequential.SequentialLauncher`."""


class LocalLauncher(local.LocalLauncher):
    """See :class:`lrd.launchers.local.LocalLauncher`."""


class SlurmLauncher(slurm.SlurmLauncher):
    """See :class:`lrd.launchers.slurm.SlurmLauncher`."""
