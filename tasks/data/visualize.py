"""Draw labels and boxes in VOC's colors. Every image is uint8 (3, h, w)."""

from typing import Any

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, make_grid

from tasks.data.voc import color_map


def colorize(labels: Tensor) -> Tensor:
    """Return labels (h, w) from 0 to 255 in VOC's colors."""
    table = torch.tensor(color_map(), dtype=torch.uint8).view(256, 3)
    return table[labels.long()].permute(2, 0, 1)


def overlay(image: Tensor, labels: Tensor) -> Tensor:
    """Return an image half covered by the colors of its ``labels`` (h, w); 0, the background, is
    left as it is."""
    mixed = (image.int() + colorize(labels).int()) // 2
    return torch.where(labels == 0, image, mixed.to(torch.uint8))


def side_by_side(images: list[Tensor]) -> Tensor:
    """Return images of one size in a row, separated by white."""
    return make_grid(torch.stack(images), nrow=len(images), padding=4, pad_value=255)


def draw_boxes(image: Tensor, boxes: Tensor, labels: Tensor, captions: list[str]) -> Tensor:
    """Draw captioned ``boxes`` (m, 4), x1 y1 x2 y2, in VOC's colors of their ``labels`` (m,)."""
    if not len(boxes):
        return image
    table = torch.tensor(color_map()).view(256, 3)
    colors = [tuple(table[int(label)].tolist()) for label in labels]
    text: Any = {"label_colors": "white", "label_background_colors": colors, "fill_labels": True}
    return draw_bounding_boxes(image, boxes, captions, colors, width=2, **text)  # type: ignore[arg-type]
