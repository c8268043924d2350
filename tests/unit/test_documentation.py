"""What README and docs name exists: imports of their code blocks, files, and links."""

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]


RECIPES = ROOT / "docs" / "recipes.md"  # tests/compat runs its blocks, which need the extra compat


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p != RECIPES], ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_imports_of_code_blocks_exist(page: Path):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


@pytest.mark.parametrize("page", PAGES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_named_files_and_links_exist(page: Path):
    text = page.read_text()
    named = re.findall(
        r"\b((?:lrd|tasks|scripts|tests|configs|docs)/[\w/]+\.(?:py|yaml|md))\b", text
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    found = [link for link in links if not (page.parent / link).exists()]
    assert found == []


def test_readme_is_short_and_links_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - set(re.findall(r"\]\(([^)#]+)\)", text)) == set()


OUTPUT = re.compile(r"<!-- output of: (.+?) -->\n(.*?)<!-- end of output -->", re.DOTALL)
OUTPUTS = [
    pytest.param(command, text, id=f"{page.name}: {command}")
    for page in PAGES
    for command, text in OUTPUT.findall(page.read_text())
]


@pytest.mark.parametrize(("command", "text"), OUTPUTS)
def test_numbers_are_what_the_command_prints_from_the_published_runs(
    command: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    _, script, *arguments = shlex.split(command)
    monkeypatch.chdir(ROOT)
    module = import_module(script.removesuffix(".py").replace("/", "."))
    assert module.main(arguments) == 0
    assert capsys.readouterr().out.strip() == text.strip()


def test_differences_in_readme_are_among_those_of_the_commands():
    outputs = " ".join(text for _, text in OUTPUT.findall("".join(p.read_text() for p in PAGES)))
    found = re.findall(r"[+-]\d+\.\d+ ± \d+\.\d+", (ROOT / "README.md").read_text())
    assert found and [each for each in found if each not in outputs] == []
