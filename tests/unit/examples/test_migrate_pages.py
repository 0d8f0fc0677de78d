"""The pages on moving from other servers show the very code that `tests/e2e/test_migrate.py` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = {path.stem.removesuffix("_mlp"): path for path in (ROOT / "examples" / "migrate").glob("*_mlp.py")}
PAGES = {path.stem: path for path in (ROOT / "docs" / "migrate").glob("*.md")}


def body(path: Path) -> str:
    """A file without its docstring."""
    return path.read_text().split('"""\n', 1)[1].strip()


def test_every_server_has_its_page_and_every_page_its_code() -> None:
    assert PAGES.keys() == CODE.keys() - {"forebay"}
    assert PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_both_sides_as_they_run(name: str) -> None:
    page = PAGES[name].read_text()
    assert f"```python\n{body(CODE[name])}\n```" in page
    assert f"```python\n{body(CODE['forebay'])}\n```" in page
