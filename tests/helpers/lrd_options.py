"""The options of LRDropout that tests go through: the paper's, and what goes beyond it."""

from typing import Any

OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "row": dict(granularity="row"),
    "tensor": dict(granularity="tensor"),
    "rescaled": dict(rescale=True),
    "row rescaled": dict(granularity="row", rescale=True),
}
