"""Dropout of hidden units with masks that are pure functions, also in a compiled network.

A unit's mask depends on (seed, step, place in the network, sample, unit) alone, by two rounds of
hashing: each (place, sample) has a key of 64 random bits, and each unit 32 bits under that key.
With one round, or a key of 32 bits, one sample's mask would be another's with its units permuted.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lrd.optim.masks import keep_threshold
from lrd.rng import CHUNK, random_bits, rounds


class UnitDropout:
    """Keep each unit of the hooked places with probability ``p`` and divide it by p, else 0.

    Active only in a module's training mode. Call :meth:`prepare` before each forward pass with its
    samples; a captured or compiled forward reads the keys from the same memory for every batch of
    one size.
    """

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.seed, self.places = p, seed, 0
        self.keys: Tensor | None = None
        self._held: dict[int, Tensor] = {}

    def hook(self, module: nn.Module, side: str) -> None:
        """Add a place: the input or the output (``side``) of ``module``. At p = 1 do nothing."""
        assert side in ("input", "output"), side
        if self.p == 1:
            return
        place = self.places
        self.places += 1

        def drop(module: nn.Module, x: Tensor) -> Tensor:
            if not module.training:
                return x
            assert self.keys is not None, "call prepare before forward"
            return drop_units(x, self.keys[place], self.p)

        def before(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
            return drop(module, *inputs)

        def after(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return drop(module, output)

        if side == "input":
            module.register_forward_pre_hook(before)
        else:
            module.register_forward_hook(after)

    def prepare(self, index: Tensor, step: int) -> None:
        """Compute the keys of step ``step`` for the samples ``index``, int64 (n,)."""
        if self.places:
            keys = unit_keys(self.seed, step, self.places, index)
            self.keys = self._held.setdefault(len(index), keys)
            self.keys.copy_(keys)


def unit_keys(seed: int, step: int, places: int, index: Tensor) -> Tensor:
    """Return int32 (places, 2, n): the two words of each key, for the samples ``index``, int64
    (n,).

    Only the low 32 bits of a sample's number count. Neither copies to the device nor synchronizes.
    """
    words = random_bits("sd", seed, step, start=0, count=4 * places, device=index.device)
    low, high = words.view(2, places, 2, 1)
    number = index.to(torch.int32).expand(places, 2, len(index)).clone()
    return rounds(number, low, high)


def drop_units(x: Tensor, keys: Tensor, p: float) -> Tensor:
    """Divide each activation of ``x`` (n, ...) by ``p`` or, with probability 1 - p, set it to 0.

    ``keys``, int32 (2, n), are one place's of :func:`unit_keys`; 0 < p < 1, exact to 2**-31. A
    sample's units are counted row-major in their shape; the result has the strides of ``x``. Costs
    about as much as torch's dropout and keeps a byte per unit for the backward pass.
    """
    dropped = _dropped(keys, x.shape[1:].numel(), keep_threshold(p)).view(x.shape)
    return (x * (1 / p)).masked_fill_(dropped, 0)


def _dropped(keys: Tensor, units: int, below: int) -> Tensor:
    """Return bool (n, units). Eagerly it is drawn in chunks, so that the scratch stays in cache; a
    compiler makes one loop of it."""
    unit = torch.arange(units, dtype=torch.int32, device=keys.device)
    if torch.compiler.is_compiling():
        return _above(unit, keys, below)
    size = max(1, CHUNK.get(keys.device.type, 1 << 20) // max(1, units))
    dropped = torch.empty(keys.shape[1], units, dtype=torch.bool, device=keys.device)
    for out, part in zip(dropped.split(size), keys.split(size, 1), strict=True):
        out.copy_(_above(unit, part, below))
    return dropped


def _above(unit: Tensor, keys: Tensor, below: int) -> Tensor:
    low, high = keys[:, :, None]
    x = rounds(unit.repeat(keys.shape[1], 1), low, high)
    return x.bitwise_and_(0x7FFFFFFF) >= below
