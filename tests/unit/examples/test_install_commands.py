"""The documentation installs Forebay in a way that works today, with extras that there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"].keys()
ASKED = re.compile(r'"(forebay|\.)\[([\w,-]+)\]"')


@pytest.mark.parametrize("page", PAGES)
def test_a_page_installs_from_a_checkout_and_with_extras_that_there_are(page: str) -> None:
    text = PAGES[page].read_text("utf-8")
    if page == "README.md":
        told, _, text = text.partition('pip install "forebay[trees]"`, that is')
        assert "not on PyPI yet" in told, "the one place that says what errors mean"
        text = told + text
    assert "pip install forebay" not in text
    for where, extras in ASKED.findall(text):
        assert where == "."
        assert set(extras.split(",")) <= EXTRAS
