"""The code behind a ``_target_``, read from files and never imported. Imports no torch.

A run's identity holds the source of classes that are neither torch's nor this repository's, and the
``recipe`` of this repository's own tasks and models.
"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from lrd.config.signatures import package_spec

OUR_PACKAGES = ("lrd", "tasks")  # this repository's packages, whose numbers their recipes stand for
TORCH_PACKAGES = ("torch", "torchvision")
CHECKOUT = Path(__file__).resolve().parents[2]


def source_of(package: str) -> str | None:
    """Return what a top-level package is: ``name 1.2.3`` if it was installed from an index, else a
    hash of its code, or None if there is none.

    The hash covers the syntax of every module of the package, and of the other local packages that
    these import; comments, docstrings and formatting do not count.
    """
    if (version := _installed_version(package)) is not None:
        return version
    files = list(_module_files(package))
    if not files:
        return None
    seen, digest = {package}, hashlib.sha256()
    pending = [(package, files)]
    while pending:
        name, files = pending.pop(0)
        for relative, path in files:
            syntax, imported = _read_module(path, *_stamp(path))
            digest.update(f"{name}/{relative}\0{syntax}\0".encode())
            for other in imported:
                if other not in seen and _is_local(other):
                    seen.add(other)
                    pending.append((other, list(_module_files(other))))
    return "sha256:" + digest.hexdigest()[:16]


def recipe_of(target: str) -> int:
    """Return the ``recipe`` of one of this repository's classes: the class variable of the class or
    of a base in the same module, or 1."""
    module, _, name = target.rpartition(".")
    path = CHECKOUT.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        return 1
    return _recipes(path, *_stamp(path)).get(name, 1)


def _installed_version(package: str) -> str | None:
    """Return the distribution that installed a package from an index, with its version.

    One that was installed from a folder or a repository may change under its version.
    """
    for name in _distributions().get(package, ()):
        found = metadata.distribution(name)
        if found.read_text("direct_url.json") is None:
            return f"{found.metadata['Name']} {found.version}"
    return None


@lru_cache(1)
def _distributions() -> dict[str, list[str]]:
    return {name: list(found) for name, found in metadata.packages_distributions().items()}


def _is_local(package: str) -> bool:
    """Return whether a top-level package is code of the user's."""
    if package in sys.stdlib_module_names or package in (*OUR_PACKAGES, *TORCH_PACKAGES):
        return False
    return _installed_version(package) is None


def _module_files(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the modules of a top-level package, by path within it, in a fixed order."""
    if (found := package_spec(package)) is None:
        return
    if found.submodule_search_locations is None:
        if found.origin is not None and found.origin.endswith(".py"):
            yield "", Path(found.origin)
        return
    for folder in map(Path, found.submodule_search_locations):
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(folder).as_posix(), path


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(1024)
def _read_module(path: Path, modified: int, size: int) -> tuple[str, tuple[str, ...]]:
    """Return a module's syntax as text, or the hash of a file that is no Python, and the top-level
    packages that it imports."""
    content = path.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return hashlib.sha256(content).hexdigest(), ()
    imported: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(dict.fromkeys(alias.name.split(".")[0] for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            imported[node.module.split(".")[0]] = None
    return _dump(tree), tuple(imported)


def _dump(node: object) -> str:
    """Return a syntax tree as text that does not depend on Python's version: what is absent or
    empty is left out, as are docstrings."""
    if isinstance(node, list):
        return "[" + ",".join(map(_dump, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    fields.pop("ctx", None)
    body = fields.get("body")
    is_documented = isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    )
    if is_documented and body and _is_text(body[0]):
        fields["body"] = body[1:]
    shown = ",".join(f"{k}={_dump(v)}" for k, v in fields.items() if v is not None and v != [])
    return f"{type(node).__name__}({shown})"


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@lru_cache(256)
def _recipes(path: Path, modified: int, size: int) -> dict[str, int]:
    """Return the recipes of a module's classes."""
    found: dict[str, int] = {}
    for node in ast.parse(path.read_bytes()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        own = _class_variable(node, "recipe")
        inherited = [found[b.id] for b in _names(node.bases) if b.id in found]
        found[node.name] = own if own is not None else max(inherited, default=1)
    return found


def _names(nodes: Iterable[ast.expr]) -> Iterator[ast.Name]:
    for node in nodes:
        value = node.value if isinstance(node, ast.Subscript) else node
        if isinstance(value, ast.Name):
            yield value


def _class_variable(node: ast.ClassDef, name: str) -> int | None:
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else []
        targets = [line.target] if isinstance(line, ast.AnnAssign) else targets
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            value = getattr(line, "value", None)
            if isinstance(value, ast.Constant) and type(value.value) is int:
                return value.value
    return None
