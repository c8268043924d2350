"""Learning rate dropout around any torch optimizer. Depends on torch, lrd.rng and lrd.rmsprop.

    from lrd.optim import LRDropout

    optimizer = LRDropout(torch.optim.Adam(model.parameters()), p=0.5)

``lrd.optim.reference`` is the specification; the other implementations are tested against it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd.optim.lr_dropout import LRDropout as LRDropout
    from lrd.optim.masks import keep_mask as keep_mask

__all__ = ["LRDropout", "keep_mask"]


def __getattr__(name: str) -> Any:
    if name == "LRDropout":
        from lrd.optim.lr_dropout import LRDropout

        return LRDropout
    if name == "keep_mask":
        from lrd.optim.masks import keep_mask

        return keep_mask
    raise AttributeError(f"module 'lrd.optim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
