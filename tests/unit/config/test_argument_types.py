"""Values from YAML against annotations: what fits, what does not, and what is left to the class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Optional

import pytest
from torch import Tensor

from lrd.config.argument_types import check_types


class Own:
    def __init__(
        self,
        number: float = 1.0,
        whole: int = 1,
        switch: bool = False,
        text: str = "a",
        maybe: Optional[int] = None,  # noqa: UP045  as older code writes it
        pair: tuple[float | Tensor, float] = (0.9, 0.99),
        several: Sequence[int] = (1,),
        endless: tuple[str, ...] = (),
        word: Literal["a", "b"] = "a",
        rate: float | Tensor = 0.1,
        implicit: int = None,  # type: ignore[assignment]
        free: Any = None,
        call: Callable[[], int] | None = None,
        mapping: Mapping[str, int] | None = None,
        bare=3,
    ) -> None: ...


FITS = [
    *[("number", v) for v in (1, 0.5, float("nan"))],
    *[("whole", 3), ("switch", True), ("text", ""), ("maybe", None), ("maybe", 3)],
    *[("pair", [0.9, 1]), ("several", []), ("several", [1, 2]), ("endless", ["a", "b", "c"])],
    *[("word", "b"), ("rate", 0.1), ("implicit", None), ("free", "x"), ("free", [1])],
    *[("call", 3), ("mapping", {"a": 1}), ("bare", "x"), ("other", "x")],
]
WRONG = [
    ("number", "abc", "a number"),
    ("number", True, "a number"),
    ("number", None, "a number"),
    ("whole", 1.5, "a whole number"),
    ("whole", True, "a whole number"),
    ("switch", 1, "true or false"),
    ("text", 3, "a text"),
    ("maybe", "x", "a whole number or null"),
    ("pair", [0.9], "a list of 2 values, each a number"),
    ("pair", 0.9, "a list of 2 values, each a number"),
    ("several", "12", "a list of values, each a whole number"),
    ("several", [1, "a"], "a list of values, each a whole number"),
    ("endless", ["a", 1], "a list of values, each a text"),
    ("word", "c", "one of a, b"),
    ("rate", "abc", "a number"),
]


@pytest.mark.parametrize(("name", "value"), FITS)
def test_what_fits(name: str, value: Any):
    check_types("model", Own, {name: value})


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_what_does_not_fit(name: str, value: Any, rule: str):
    with pytest.raises(ValueError) as caught:
        check_types("model", Own, {"free": 1, name: value})
    assert str(caught.value) == f"model.{name} must be {rule}, got {value}"


def test_annotations_that_cannot_be_read_accept_everything():
    class Hidden:
        def __init__(self, a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    check_types("model", Hidden, {"a": 1})
    check_types("model", int, {"a": 1})
