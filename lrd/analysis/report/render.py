"""Render the HTML of the page: one file that loads nothing from a network."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lrd.analysis.claims.listing import count_verdicts
from lrd.analysis.claims.rules import STATUSES
from lrd.analysis.claims.verdicts import Verdict, missing_seed_commands
from lrd.analysis.render import format_p
from lrd.analysis.report.forest_plot import rule_estimates
from lrd.analysis.report.sections import pluralize

HERE = Path(__file__).parent
_SECTION = re.compile(r"^#+ (Deviations[^\n]*)\n(.*?)(?=^#+ |\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")


def render(**shown: Any) -> str:
    """Return the page. All strings of ``shown`` are escaped: a record may contain ``<script>``."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.globals |= {"zip": zip}
    environment.tests["judged"] = is_judged
    environment.filters |= {
        "fixed": lambda value, digits=2: "" if value is None else f"{value:.{digits}f}",
        "count_verdicts": count_verdicts,
        "format_p": format_p,
        "missing_seed_commands": missing_seed_commands,
        "link": lambda path: "./" + quote(path),  # never a scheme, whatever the first directory is
        "pluralize": pluralize,
        "rule_estimates": rule_estimates,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "slug": lambda text: text.replace(" ", "-"),
        "spoken": to_title,
        "tally": lambda verdicts: [(s, [v.status for v in verdicts].count(s)) for s in STATUSES],
    }
    style, script = ((HERE / name).read_text() for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )  # the browser runs this script alone, and loads nothing
    page = environment.get_template("page.html")
    return page.render(style=Markup(style), script=Markup(script), policy=policy, **shown)


def is_judged(verdict: Verdict) -> bool:
    """Return whether runs say something about a claim; times of steps do not count."""
    parts = (part for part in verdict.parts if part.rule.pairs)
    return any(comparison.n for part in parts for comparison in part.comparisons)


def to_title(name: str) -> str:
    """Return ``table1`` as "Table 1"; other names keep their words."""
    found = re.fullmatch(r"(table|figure)(\d+)(?:_(\w+))?", name)
    if found is None:
        return name.replace("_", " ")
    kind, number, rest = found.groups()
    return f"{kind.capitalize()} {number}" + (f" ({rest.replace('_', ' ')})" if rest else "")


def read_deviations(page: Path) -> tuple[str, list[Markup]]:
    """Return the heading and the entries of a page's list of deviations.

    Raises:
        ValueError: in one line, if there is no such page, or no such section in it.
    """
    try:
        section = _SECTION.search(page.read_text())
    except OSError as error:
        raise ValueError(f"cannot read the deviations {page}: {error.strerror}") from error
    if section is None:
        raise ValueError(f"{page} must have a section '# Deviations ...' with a list")
    items = re.split(r"^- ", section[2], flags=re.MULTILINE)[1:]
    return section[1], [_to_html(" ".join(item.split())) for item in items]


def _to_html(item: str) -> Markup:
    """Convert code, bold text and links of a line of Markdown; everything else is text."""
    shown = _CODE.sub(r"<code>\1</code>", str(escape(item)))
    shown = _BOLD.sub(r"<b>\1</b>", shown)
    return Markup(_LINK.sub(r'<a href="\2">\1</a>', shown))
