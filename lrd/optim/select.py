"""Select the implementation of a run's optimizer steps, and compile its kernels once."""

import logging
import math
import time

import torch

from lrd.optim import kernels
from lrd.optim.flat_params import flatten_parameters
from lrd.optim.fused import precompile_fused
from lrd.optim.lr_dropout import LRDropout
from lrd.optim.snapshot import precompile_restore
from lrd.optim.update_rules import update_rule_for
from lrd.optim.validation import why_unsupported

log = logging.getLogger(__name__)


def select_implementation(
    optimizer: LRDropout,
    requested: str,
    recorded: str | None,
    steps: int,
    smallest_p: float | None = None,
) -> str:
    """Make ``optimizer`` step as requested and return the implementation: single_pass, generic or
    reference.

    ``auto`` repeats what an unfinished run recorded. Otherwise it takes ``single_pass`` if the base
    supports it and steps times elements reach ``kernels.COMPILE_THRESHOLD``, else ``generic``,
    which is compiled from the same number on. If p is 1 throughout, the base steps alone and
    nothing is compiled or moved; nor is it for masks of rows and of tensors. Parameters that a
    compiled kernel processes are moved to flat buffers.

    Args:
        optimizer: The optimizer of the run.
        requested: An implementation that :func:`why_unsupported` does not reject.
        recorded: What the record of a resumed run says, or None.
        steps: Steps of the run.
        smallest_p: The smallest keep probability of the run, if it is not the optimizer's p.

    Raises:
        ValueError: An implementation requested by name cannot be compiled.
    """
    groups = optimizer.param_groups
    if all(group.get("p", smallest_p or optimizer.p) == 1 for group in groups):
        return "generic"
    params = [param for group in groups for param in group["params"]]
    device = params[0].device
    work = steps * sum(p.numel() for p in params)
    is_long = work >= kernels.COMPILE_THRESHOLD.get(device.type, math.inf)
    choice = requested
    if requested == "auto":
        choice = recorded or ("single_pass" if is_long else "generic")
        if why_unsupported(choice, optimizer.base, optimizer.granularity) is not None:
            choice = "generic"
    compiles = choice == "single_pass" or requested == "generic"
    compiles = (
        compiles or (choice == "generic" and is_long)
    ) and optimizer.granularity == "element"
    if compiles and kernels.can_compile(device.type):
        choice = _precompile(optimizer, choice, requested, device)
        flatten_parameters(groups, gradients=choice == "single_pass")
        optimizer.implementation = choice
    elif choice == "reference":
        optimizer.implementation = choice
    return choice


def _precompile(optimizer: LRDropout, choice: str, requested: str, device: torch.device) -> str:
    """Compile the kernels of ``choice``; if that fails, use none, unless requested by name."""
    log.info("compiling the optimizer step once, for this run and, from the cache, for later ones")
    began = time.perf_counter()
    try:
        with torch.no_grad():
            if choice == "single_pass":
                for group in optimizer.param_groups:
                    rule = update_rule_for(optimizer.base, group)
                    assert rule is not None
                    precompile_fused(rule, device)
            precompile_restore(device)
    except Exception as error:  # a compiler may raise anything
        why = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        if requested == choice:
            raise ValueError(
                f"lrd.implementation={requested} could not be compiled ({why}): use reference, or "
                "auto"
            ) from error
        log.info(f"note: the compiler failed ({why}); continuing without it, with the same masks")
        kernels.COMPILE = False
        return "generic"
    log.info(f"compiled in {time.perf_counter() - began:.0f} s")
    return choice
