"""The arguments of the class behind a ``_target_``, read from files and never imported. Imports no
torch."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef
ANY = "**"  # among the arguments of a class or a function that takes any
PLAIN_BASES = ("abc.ABC", "typing.Generic")  # which have no constructor


@lru_cache(256)
def arguments_of(target: str) -> frozenset[str] | None:
    """Return the names of the arguments that a class, or a function, declares, with
    :data:`ANY` if it takes others too.

    Names that packages re-export are followed to the definition, and a class without a constructor
    to its first base that has one. None where the files do not tell, as of compiled code.
    """
    try:
        module, found = _find(target)
        bound = isinstance(found, ast.ClassDef)  # a constructor's first argument is self
        found = _constructor(module, found) if isinstance(found, ast.ClassDef) else found
    except (LookupError, OSError, SyntaxError, ValueError, RecursionError):
        return None
    if found is None:
        return frozenset()
    positional = [*found.args.posonlyargs, *found.args.args][bound:]
    named = frozenset(argument.arg for argument in (*positional, *found.args.kwonlyargs))
    return named if found.args.kwarg is None else named | {ANY}


def _constructor(module: str, node: Definition) -> ast.FunctionDef | None:
    """Return the constructor of a class, its own or a base's; None where no class has one.

    Raises:
        LookupError: The files do not tell.
    """
    if not isinstance(node, ast.ClassDef) or node.decorator_list:
        raise LookupError
    if any(ast.unparse(keyword.value).rpartition(".")[2] != "ABCMeta" for keyword in node.keywords):
        raise LookupError
    methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    if "__new__" in methods:
        raise LookupError
    if "__init__" in methods:
        return methods["__init__"]
    for base in node.bases:
        if (name := _dotted_name(module, base)) in PLAIN_BASES:
            continue
        if (found := _constructor(*_find(name))) is not None:
            return found
    return None


def _find(target: str) -> tuple[str, Definition]:
    """Return the module and the statement that define what a dotted name leads to.

    Raises:
        LookupError: The files do not tell.
    """
    module, _, name = target.rpartition(".")
    for found in _definitions(module, name) if module else ():
        return found
    raise LookupError


def _definitions(module: str, name: str) -> Iterator[tuple[str, Definition]]:
    """Yield the definitions of a module's name, the last one first; those of imports are
    followed."""
    for node in reversed(_body(module)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            yield module, node
        elif isinstance(node, ast.ImportFrom):
            source = _source(module, node)
            for alias in node.names:
                if alias.name == "*" and source != module:
                    yield from _definitions(source, name)
                elif (alias.asname or alias.name) == name:
                    yield from _definitions(source, alias.name)


def _dotted_name(module: str, node: ast.expr) -> str:
    """Return what an expression such as ``nn.Module`` is called outside of its module."""
    if isinstance(node, ast.Subscript):
        return _dotted_name(module, node.value)
    if isinstance(node, ast.Attribute):
        return f"{_dotted_name(module, node.value)}.{node.attr}"
    if not isinstance(node, ast.Name):
        return ""
    for line in reversed(_body(module)):
        if isinstance(line, ast.Import | ast.ImportFrom):
            for alias in line.names:
                if (alias.asname or alias.name.split(".")[0]) != node.id:
                    continue
                if isinstance(line, ast.ImportFrom):
                    return f"{_source(module, line)}.{alias.name}"
                return alias.name if alias.asname else node.id
    return f"{module}.{node.id}"


def _source(module: str, node: ast.ImportFrom) -> str:
    """Return the module that ``from ... import`` in ``module`` names."""
    if not node.level:
        return node.module or ""
    path, parts = _path_of(module), module.split(".")
    up = node.level - (path is not None and path.name == "__init__.py")
    return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])


def _body(module: str) -> list[ast.stmt]:
    path = _path_of(module)
    return [] if path is None else _parse(path, path.stat().st_mtime_ns)


@lru_cache(256)
def _parse(path: Path, modified: int) -> list[ast.stmt]:
    return ast.parse(path.read_bytes()).body


def _path_of(module: str) -> Path | None:
    """Return the file of a module, without an import of the packages around it."""
    package, *rest = module.split(".")
    if (spec := package_spec(package)) is None:
        return None
    if spec.submodule_search_locations is None:
        is_python = spec.origin is not None and spec.origin.endswith(".py")
        return Path(spec.origin) if is_python and not rest else None  # type: ignore[arg-type]
    for folder in map(Path, spec.submodule_search_locations):
        place = folder.joinpath(*rest)
        for path in (place / "__init__.py", place.with_suffix(".py") if rest else place):
            if path.is_file():
                return path
    return None


def package_spec(package: str) -> ModuleSpec | None:
    """Return where a top-level package is, or None."""
    try:
        return find_spec(package)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return None
