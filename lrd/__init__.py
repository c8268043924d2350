"""Learning Rate Dropout (arXiv 1912.00144): the optimizer wrapper and the experiment framework.

    from lrd import LRDropout

needs torch alone. Importing ``lrd`` imports nothing else; each name is imported when it is used.
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


def __dir__() -> list[str]:
    return __all__
