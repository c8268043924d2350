"""Learning Rate Dropout (arXiv 1912.00144): the optimizer wrapper and the experiment framework.

    from lrd import LRDropout

needs torch alone. Importing ``lrd`` imports nothing else; each name is imported when it is used.
``lrd.load_model(run)`` returns the trained network of a run, from a checkout.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd.optim import LRDropout as LRDropout

    load_model: Any

__version__ = "0.1.0"
__all__ = ["LRDropout", "__version__", "load_model"]
_MODULES = {"LRDropout": "lrd.optim", "load_model": "lrd.training.trained"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'lrd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
