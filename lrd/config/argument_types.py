"""Check the values of a class's settings against the annotations of its arguments."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

NAMES = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
}


def check_types(where: str, found: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Check what a file or a command line can get wrong; other annotations accept everything.

    Args:
        where: The node of the settings, for the message.
        found: The class, or the function, that takes the settings.
        settings: Plain values by argument.

    Raises:
        ValueError: A value is not of its argument's type.
    """
    try:
        hints = get_type_hints(found if inspect.isfunction(found) else found.__init__)
        parameters = inspect.signature(found).parameters
    except (NameError, TypeError, ValueError):  # names for type checkers, a constructor in C
        return
    for name, value in settings.items():
        is_default = name in parameters and value is parameters[name].default
        if name in hints and not is_default and not _fits(value, hints[name]):
            raise ValueError(f"{where}.{name} must be {_describe(hints[name])}, got {value}")


def _fits(value: Any, kind: Any) -> bool:
    """Return whether ``value``, from YAML, is of an annotated type; True if that is unknown."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, k) for k in arguments if not _is_tensor(k))
    if origin is Literal:
        return value in arguments
    if _is_list(origin):
        is_fixed = origin is tuple and ... not in arguments
        if not _is_list(type(value)):
            return False
        kinds = arguments if is_fixed else [arguments[0]] * len(value)
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if kind in NAMES:
        kinds = (int, float) if kind is float else kind
        return isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
    return True


def _describe(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_describe(k) for k in arguments if not _is_tensor(k))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if _is_list(origin):
        kinds = list(dict.fromkeys(_describe(k) for k in arguments if k is not ...))
        number = (
            f"{len(arguments)} values" if origin is tuple and ... not in arguments else "values"
        )
        return f"a list of {number}, each {' or '.join(kinds)}"
    return NAMES.get(kind, str(kind))


def _is_list(kind: Any) -> bool:
    return kind in (list, tuple, Sequence)


def _is_tensor(kind: Any) -> bool:
    return getattr(kind, "__name__", "") == "Tensor"
