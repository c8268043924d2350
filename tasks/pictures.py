"""What people look at: images, labels in VOC's colours, side by side."""

import torch
from torch import Tensor
from torchvision.utils import make_grid

from tasks.shapes import palette


def colours(labels: Tensor) -> Tensor:
    """Labels (h, w) of 0 to 255 in VOC's palette: uint8 (3, h, w)."""
    table = torch.tensor(palette(), dtype=torch.uint8).view(256, 3)
    return table[labels.long()].permute(2, 0, 1)


def overlay(image: Tensor, labels: Tensor, weight: float = 0.6) -> Tensor:
    """A uint8 picture (3, h, w) under the colours of its labels (h, w), where they are not 0."""
    mixed = (1 - weight) * image + weight * colours(labels)
    return torch.where(labels == 0, image, mixed.round().to(torch.uint8))


def beside(pictures: list[Tensor]) -> Tensor:
    """uint8 pictures (3, h, w) of one size in a row, with white between them."""
    return make_grid(torch.stack(pictures), nrow=len(pictures), padding=4, pad_value=255)
