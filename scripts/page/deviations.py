"""The deviations from the paper, out of the README, where they are written down."""

import re
from pathlib import Path

from markupsafe import Markup, escape

README = Path(__file__).parents[2] / "README.md"
HEAD = "Deviations from the paper"
_SECTION = re.compile(rf"^## ({HEAD}[^\n]*)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")


def deviations(readme: Path = README) -> tuple[str, list[Markup]]:
    """The section's heading, and each entry of its list. Raises ValueError without a section."""
    section = _SECTION.search(readme.read_text())
    if section is None:
        raise ValueError(f"{readme} must have a section '## {HEAD}'")
    items = re.split(r"^- ", section[2], flags=re.MULTILINE)[1:]
    return section[1], [_inline(" ".join(item.split())) for item in items]


def _inline(item: str) -> Markup:
    """Code and links of a line of Markdown; all else is text."""
    shown = _CODE.sub(r"<code>\1</code>", str(escape(item)))
    return Markup(_LINK.sub(r'<a href="\2">\1</a>', shown))
