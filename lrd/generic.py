"""A step around any base: the base's own, then the way back where D_t is 0."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from lrd import kernels
from lrd.checks import check_dense, checked
from lrd.hooks import global_hooks_silenced
from lrd.reference import NaiveSnapshot, Span, keep_probabilities
from lrd.restore import Snapshot
from lrd.units import UnitSnapshot


class Generic:
    """Steps of ``base`` that are undone where D_t is 0, to the same bits in whatever form.

    Between steps it keeps what it has prepared for the spans that there were.
    """

    def __init__(self, base: Optimizer) -> None:
        self.base = base
        self.snapshot: Snapshot | UnitSnapshot | None = None
        self._key: list[Any] = []
        self._work = 0

    def step(
        self,
        spans: Sequence[Span],
        closure: Callable[[], Any] | None,
        *,
        seed: int,
        t: int,
        implementation: str,
        rescale: bool,
    ) -> Any:
        """Take step ``t`` over the base's parameters, of which ``spans`` are those with a mask.

        Returns the closure's loss. Raises ValueError for a sparse gradient before anything moves.
        """
        if closure is None:
            check_dense(self.base.param_groups)
        else:
            closure = checked(closure, self.base.param_groups)
        naive = implementation == "reference"
        snapshot = NaiveSnapshot(spans) if naive else self._snapshot_of(spans)
        snapshot.take()
        with global_hooks_silenced():
            loss = self.base.step() if closure is None else self.base.step(closure)
        snapshot.restore(seed, t, self._compiles(spans, implementation), rescale)
        return loss

    def _snapshot_of(self, spans: Sequence[Span]) -> Snapshot | UnitSnapshot:
        """The one that is there, if the spans lie where they lay and are divided by p alike."""
        ps = keep_probabilities(spans)
        key = [
            (s.index, ps.index(s.p), s.granularity, s.tensor.data_ptr(), s.tensor.stride())
            for s in spans
        ]
        if self.snapshot is None or self._key != key:
            single = all(span.granularity == "element" for span in spans)
            self._key, self.snapshot = key, (Snapshot if single else UnitSnapshot)(spans)
        self.snapshot.ps = ps
        return self.snapshot

    def _compiles(self, spans: Sequence[Span], implementation: str) -> bool:
        """Whether this step's restore is compiled; it has the same bits either way."""
        device = spans[0].tensor.device.type if spans else "cpu"
        if implementation == "auto":
            self._work += sum(s.tensor.numel() for s in spans)
            if self._work < kernels.WORTH.get(device, math.inf):
                return False
        return kernels.can_compile(device)
