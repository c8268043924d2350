"""Initial weights of a network: random, torchvision's ImageNet weights, or a file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from tasks.models.published import describe_names


def reset_parameters(model: nn.Module) -> None:
    """Initialize every layer by torch's default method.

    The CIFAR code that the paper's authors built on uses it; torchvision's constructors use He
    initialization.
    """
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def read_weights(weights: str, imagenet: WeightsEnum) -> Mapping[str, Tensor] | None:
    """Return the state_dict that ``model.weights`` names, or None for ``none``.

    Args:
        weights: ``none``, ``imagenet``, or the path of a file that torch.save wrote of a
            state_dict, alone or as ``model`` or ``state_dict`` of a dictionary. A ``module.``
            before all names, which DataParallel writes, is removed.
        imagenet: The ImageNet weights, from torch.hub's cache or the internet.

    Raises:
        ValueError: The weights cannot be downloaded or read.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        try:
            return imagenet.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"model.weights=imagenet cannot be fetched ({_one_line(error)}): put "
                f"{Path(imagenet.url).name} into {torch.hub.get_dir()}/checkpoints, or give its "
                "path, or start from random weights by model.weights=none"
            ) from error
    if not Path(weights).is_file():
        raise ValueError(
            f"model.weights must be imagenet, none or the path of a file, got {weights}"
        )
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"model.weights={weights} cannot be read: {_one_line(error)}") from error
    for name in ("model", "state_dict"):
        found = found.get(name, found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"model.weights={weights} must hold a state_dict, a name for each tensor")
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    weights: str,
    ignored: tuple[str, ...] = (),
    names: Iterable[str] | None = None,
) -> None:
    """Load every parameter and buffer of ``model``, or those of ``names``.

    Args:
        model: The module to load.
        state: The weights by name.
        weights: The setting, for messages.
        ignored: Prefixes of names in ``state`` that ``model`` does not need.
        names: What to load; by default all.

    Raises:
        ValueError: A tensor is missing, unknown, or has another shape.
    """
    own = model.state_dict()
    own = own if names is None else {name: own[name] for name in names}
    kept = {name: t for name, t in state.items() if not name.startswith(ignored)}
    for name in [*own, *kept]:
        shape = tuple(own[name].shape) if name in own else "no such tensor"
        got = tuple(kept[name].shape) if name in kept else "none"
        if shape != got and not name.endswith("num_batches_tracked"):
            held = f" among {describe_names(state)}" if got == "none" else ""
            raise ValueError(
                f"model.weights={weights} does not fit: {name} must be {shape}, got {got}{held}"
            )
    model.load_state_dict(kept, strict=False)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
