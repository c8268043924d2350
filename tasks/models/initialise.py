"""One initialisation for the CIFAR networks."""

from torch import nn


def reset(model: nn.Module) -> None:
    """Draw every layer anew with torch's default initialisation, which the CIFAR code that the
    paper's authors built on leaves in place (torchvision's constructors use He's)."""
    for module in model.modules():
        if callable(draw := getattr(module, "reset_parameters", None)):
            draw()
