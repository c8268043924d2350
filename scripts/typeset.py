"""A table as text, markdown or LaTeX."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A table as text: its first ``labels`` columns are words; every ``per`` lines belong together,
    and the first of them has the labels."""

    title: str
    how: str
    head: list[str]
    labels: int
    rows: list[list[str]]
    per: int


def text(made: Block) -> str:
    body = [made.head, *made.rows]
    widths = [max(len(row[i]) for row in body) for i in range(len(body[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in body]
    rule = "-" * max(map(len, lines))
    blocks = ["\n".join(lines[i : i + made.per]) for i in range(1, len(lines), made.per)]
    table = "\n".join([lines[0], rule, f"\n{rule}\n".join(blocks)])
    return f"{made.title}\n{made.how}\n\n{table}"


def markdown(made: Block) -> str:
    rows = [made.head, ["---"] * len(made.head), *made.rows]
    table = "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in r) + " |" for r in rows
    )
    return f"{made.title}\n{made.how}\n\n{table}"


def latex(made: Block) -> str:
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in [made.head, *made.rows]]
    for i in range(0, len(lines), made.per):
        lines[i] += r" \hline"
    columns = "l" * made.labels + "c" * (len(made.head) - made.labels)
    caption = _escaped(f"{made.title}. {made.how[0].upper()}{made.how[1:]}.")
    top = ["\\begin{table}", "\\centering", rf"\caption{{{caption}}}"]
    begin, end = rf"\begin{{tabular}}{{{columns}}} \hline", "\\end{tabular}"
    return "\n".join([*top, begin, *lines, end, "\\end{table}"])


def _escaped(cell: str) -> str:
    for character in "%&_#${}":
        cell = cell.replace(character, "\\" + character)
    return cell.replace("±", r"$\pm$")


TYPESET: dict[str, Callable[[Block], str]] = {"text": text, "markdown": markdown, "latex": latex}
