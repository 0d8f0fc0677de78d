"""The how-tos of `forebay optimize` and `forebay distill`: what they tell to run can be run, and
`tests/e2e/test_optimize_pages.py` does it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.unit.optimize.pages import PAGES, ROOT, blocks, commands
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.core.errors import SetupError
from forebay.optimize.sources.torch_module import export_module


def test_every_how_to_is_linked() -> None:
    names = {"optimize": ("digits", "minilm", "torch", "xgboost"), "distill": ("digits", "sentiment", "spam")}
    assert PAGES.keys() == {f"{kind}-{name}" for kind, some in names.items() for name in some}
    for name in PAGES:
        assert f"docs/{name}.md" in (ROOT / "docs" / f"{name.partition('-')[0]}.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_scripts_exist_and_options_are_known(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # nothing that a page names is there, so that nothing begins
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "python":
            assert (ROOT / words[1]).is_file(), command
        if words[0] == "forebay":
            ended = CliRunner().invoke(app, words[1:])
            assert isinstance(ended.exception, SetupError), f"{command}\n{ended.output}"
            wanted = ("there is no file", "there is no such file", "does not exist", "there is no folder")
            assert any(told in str(ended.exception) for told in wanted)


def factories() -> list[tuple[str, str]]:
    """Each block of the torch page that has a factory, with the output that stands behind it, if any."""
    found = blocks("optimize-torch")
    behind = [*found[1:], ("", "")]
    return [
        (content, said if not language else "")
        for (kind, content), (language, said) in zip(found, behind, strict=True)
        if kind == "python" and "def factory" in content
    ]


@pytest.mark.parametrize("place", range(len(factories())))
def test_factories_of_the_torch_page_do_what_it_says(place: int, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    content, said = factories()[place]
    file = tmp_path / "mine.py"
    file.write_text(content)
    (tmp_path / "work").mkdir()
    if not said.startswith("error"):
        original = export_module(file, "factory", "mine", tmp_path / "work")
        assert original.note == said.strip() if said else original.graph is not None
        return
    with pytest.raises(SetupError) as told:
        export_module(file, "factory", "mine", tmp_path / "work")
    assert said.strip() == f"error: {told.value}".replace(f"{file}:", "mine.py:")


def test_the_torch_page_shows_the_example_as_it_runs() -> None:
    shown = [content.strip() for kind, content in blocks("optimize-torch") if kind == "python"]
    code = (ROOT / "examples" / "sentiment" / "sentiment.py").read_text()
    assert any(content in code for content in shown)
