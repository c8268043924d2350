"""What a regularizer may do to a run: three hooks, each of which does nothing here."""

from torch import nn
from torch.optim import Optimizer

from lrd.task import Batch, Task


class Regularizer:
    """Base of all regularizers (paper, section 4.5). Each kind overrides the hook it needs.

    Its randomness is drawn from :mod:`lrd.masks` under a word of its own and the run's ``seed``,
    so that adding one changes neither initialisation nor data order nor any other stream.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_model(self, model: nn.Module, task: Task) -> None:
        """Change the network once, after initialisation. Raises ValueError, in one line, where this
        kind does not apply to the task or the model."""

    def on_batch(self, batch: Batch, step: int) -> Batch:
        """The batch that step ``step`` of the run (from 0) trains on."""
        return batch

    def on_gradients(self, optimizer: Optimizer, step: int) -> None:
        """Change the gradients in place before the optimizer's step ``step``."""
