"""The page's HTML from what it shows: one file that asks the network for nothing."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sections import chance

from page.answers import answer, tally, told
from page.summary import plural

HERE = Path(__file__).parent


def render(**shown: Any) -> str:
    """Whatever ``shown`` holds is text: a record may say ``<script>``."""
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
    environment.tests["told"] = told
    environment.filters |= {
        "answer": answer,
        "chance": chance,
        "fixed": fixed,
        "link": link,
        "plural": plural,
        "slug": lambda text: text.replace(" ", "-"),
        "spoken": spoken,
        "tally": tally,
    }
    style, script = ((HERE / name).read_text() for name in ("style.css", "script.js"))
    page = environment.get_template("page.html")
    return page.render(style=Markup(style), script=Markup(script), policy=policy(script), **shown)


def policy(script: str) -> str:
    """The browser is to run this script and no other, and to fetch nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def link(path: str) -> str:
    """A relative path as a reference: it is no scheme, whatever its first folder is called."""
    return "./" + quote(path)


def fixed(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def spoken(name: str) -> str:
    """``table1`` as "Table 1"; what is none of the paper's keeps its name."""
    found = re.fullmatch(r"(table|figure)(\d+)(?:_(\w+))?", name)
    if found is None:
        return name.replace("_", " ")
    kind, number, rest = found.groups()
    return f"{kind.capitalize()} {number}" + (f" ({rest.replace('_', ' ')})" if rest else "")
