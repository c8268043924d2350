"""docs/compatibility.md is what the checks find with the installed packages."""

from pathlib import Path

import pytest

from scripts.compat import __main__ as compatibility

pytestmark = [pytest.mark.compat, pytest.mark.filterwarnings("ignore")]  # the packages warn
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def test_the_published_table_is_what_the_checks_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """After other versions or a change to LRDropout, renew the page by the command."""
    out = tmp_path / "compatibility.md"
    status = compatibility.main(["--out", str(out)])
    assert out.read_text().splitlines() == PAGE.read_text().splitlines()
    assert status == int("**no**" in PAGE.read_text())
    assert capsys.readouterr().out == out.read_text() + "\n"


def test_named_optimizers_alone_are_checked(capsys: pytest.CaptureFixture[str]):
    status = compatibility.main(["timm.cadamw", "pytorch_optimizer.FAdam", "torch.SparseAdam"])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert lines[:2] == ["| cadamw | yes | yes | yes | |", "| FAdam | yes | yes | yes | |"]
    assert lines[2].startswith("| SparseAdam | - | - | - | ")
    assert compatibility.main(["timm.adamww"]) == 2
    assert "unknown optimizer 'timm.adamww'" in capsys.readouterr().err
