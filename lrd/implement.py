"""Which implementation of the optimizer's step a run takes, and its one compilation."""

import math
import time
from collections.abc import Callable

import torch

from lrd import flat, kernels, restore, single_pass
from lrd.checks import refusal
from lrd.optim import LRDropout
from lrd.rules import rule_for


def implement(
    optimizer: LRDropout,
    wanted: str,
    recorded: str | None,
    steps: int,
    say: Callable[[str], None] = lambda line: None,
    least: float | None = None,
) -> str:
    """Make ``optimizer`` step as ``wanted``, and say how: single_pass, generic or reference.

    ``wanted`` is nothing that the optimizer refuses (:func:`lrd.checks.refusal`). ``least`` is the
    smallest p of the run, where that is not the optimizer's now.

    ``auto`` repeats what an unfinished run has ``recorded``. Else it takes the single pass where
    the optimizer has one and ``steps`` times its elements reach kernels.WORTH, and the generic path
    elsewhere, compiled from the same number on. Where p is 1 throughout, the base steps alone, and
    nothing is compiled or moved; nor is it for masks of rows and of tensors. Parameters that a
    compiled kernel is to run over are laid out flat.

    Raises ValueError, in one line, where what is wanted by name cannot be compiled.
    """
    groups = optimizer.param_groups
    if all(group.get("p", least or optimizer.p) == 1 for group in groups):
        return "generic"
    params = [param for group in groups for param in group["params"]]
    device = params[0].device
    work = steps * sum(p.numel() for p in params)
    long = work >= kernels.WORTH.get(device.type, math.inf)
    choice = wanted
    if wanted == "auto":
        choice = recorded or ("single_pass" if long else "generic")
        if refusal(choice, optimizer.base, optimizer.granularity) is not None:
            choice = "generic"
    compiles = choice == "single_pass" or wanted == "generic" or (choice == "generic" and long)
    compiles = compiles and optimizer.granularity == "element"
    if compiles and kernels.can_compile(device.type):
        choice = _compile(optimizer, choice, wanted, device, say)
        flat.lay_out(groups, gradients=choice == "single_pass")
        optimizer.implementation = choice
    elif choice == "reference":
        optimizer.implementation = choice
    return choice


def _compile(
    optimizer: LRDropout, choice: str, wanted: str, device: torch.device, say: Callable[[str], None]
) -> str:
    """Compile the kernels of ``choice``; where that fails, do without, unless asked by name."""
    say("compiling the optimizer step once, for this run and, from the cache, for later ones")
    began = time.perf_counter()
    try:
        with torch.no_grad():
            if choice == "single_pass":
                for group in optimizer.param_groups:
                    rule = rule_for(optimizer.base, group)
                    assert rule is not None
                    single_pass.warm(rule, device)
            restore.warm(device)
    except Exception as error:  # whatever a compiler may raise
        why = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        if wanted == choice:
            raise ValueError(
                f"lrd.implementation={wanted} could not be compiled ({why}): use reference, or auto"
            ) from error
        say(f"note: the compiler failed ({why}); going on without, with the same masks")
        kernels.COMPILE = False
        return "generic"
    say(f"compiled in {time.perf_counter() - began:.0f} s")
    return choice
