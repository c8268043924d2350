"""Translate an update rule, written once with torch operations, into lines of C or Triton."""

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Language(NamedTuple):
    """How a language writes a number, an assignment and each operation."""

    number: str
    assign: str
    operations: dict[str, str]


ARITHMETIC = {"add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "neg": "-{}", "gt": "{} > {}"}
C = Language(
    number="{!r}f",
    assign="const float {} = {};",
    operations={
        **ARITHMETIC,
        "truediv": "{} / {}",
        "sqrt": "sqrtf({})",
        "maximum": "{0} > {1} || {0} != {0} ? {0} : {1}",
        "where": "{} ? {} : {}",
    },
)
# A GPU divides and takes roots in fewer bits unless told otherwise.
TRITON = Language(
    number="{!r}",
    assign="{} = {}",
    operations={
        **ARITHMETIC,
        "truediv": "tl.div_rn({}, {})",
        "sqrt": "tl.sqrt_rn({})",
        "maximum": "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
        "where": "tl.where({}, {}, {})",
    },
)


class Symbol:
    """The value of one element while a rule is traced: an operation on it becomes a line."""

    def __init__(self, name: str, lines: list[str], language: Language) -> None:
        self.name, self.lines, self.language = name, lines, language

    def apply(self, operation: str, operands: Sequence[Any]) -> "Symbol":
        """Append a line for ``operation`` and return the symbol of its result."""
        result, language = f"x{len(self.lines)}", self.language
        names = [
            x.name if isinstance(x, Symbol) else language.number.format(float(x)) for x in operands
        ]
        expression = language.operations[operation].format(*names)
        self.lines.append(language.assign.format(result, expression))
        return Symbol(result, self.lines, language)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> "Symbol":
        first = next(x for x in args if isinstance(x, Symbol))
        return first.apply(function.__name__, args)


def _operator(name: str, reflected: bool = False) -> Callable[..., Symbol]:
    def apply(self: Symbol, *others: Any) -> Symbol:
        return self.apply(name, (*others, self) if reflected else (self, *others))

    return apply


for _name in ("add", "sub", "mul", "truediv"):
    setattr(Symbol, f"__r{_name}__", _operator(_name, reflected=True))
for _name in ("add", "sub", "mul", "truediv", "neg", "gt"):
    setattr(Symbol, f"__{_name}__", _operator(_name))


def lines_of(rule: Any, language: Language) -> tuple[list[str], dict[str, str]]:
    """Return the lines of a rule's update, and the names of the new weight and moments in them.

    The lines read the weight ``w``, the gradient ``g``, and each moment and scalar by its name.
    """
    lines: list[str] = []

    def symbols(names: Sequence[str]) -> types.SimpleNamespace:
        return types.SimpleNamespace(**{n: Symbol(n, lines, language) for n in names})

    inputs = symbols(("w", "g"))
    new, moments = rule.update(inputs.w, inputs.g, symbols(rule.moments), symbols(rule.scalars))
    return lines, {"w": new.name, **{name: value.name for name, value in moments.items()}}
