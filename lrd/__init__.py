"""Learning Rate Dropout (arXiv 1912.00144): the technique and the training loop around it.

``from lrd import LRDropout`` needs torch alone, and nothing is imported before it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd.optim import LRDropout as LRDropout

__version__ = "0.1.0"
__all__ = ["LRDropout", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "LRDropout":
        from lrd.optim import LRDropout

        return LRDropout
    raise AttributeError(f"module 'lrd' has no attribute {name!r}")
