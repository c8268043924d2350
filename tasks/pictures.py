"""What people look at: images, labels in VOC's colours, side by side."""

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, make_grid

from tasks.voc import palette


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


def framed(image: Tensor, boxes: Tensor, labels: Tensor, captions: list[str]) -> Tensor:
    """A uint8 picture (3, h, w) with boxes (m, 4) x1 y1 x2 y2 in the palette's colours of their
    labels (m,), each with its caption."""
    if not len(boxes):
        return image
    table = torch.tensor(palette()).view(256, 3)
    colour = [tuple(table[int(label)].tolist()) for label in labels]
    return draw_bounding_boxes(image, boxes, captions, colour, width=2, label_colors="white")  # type: ignore[arg-type]
