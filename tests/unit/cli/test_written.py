"""Files that cannot be written are refused before the work that they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.cli.curves import check_plot
from forebay.cli.written import check_writable, write_file
from forebay.core.errors import SetupError


def test_a_file_that_cannot_be_is_named_with_its_mend(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"--out .*/none/a.json: there is no folder .*/none; make it"):
        check_writable("--out", tmp_path / "none" / "a.json")
    with pytest.raises(SetupError, match=f"--out {tmp_path} is a folder; name a file"):
        check_writable("--out", tmp_path)
    check_writable("--out", None)
    check_writable("--out", tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SetupError, match=f"--out {tmp_path} cannot be written: Is a directory"):
        write_file("--out", tmp_path, b"")


def test_a_plot_is_of_a_kind_that_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(SetupError, match=r"a.docx: .docx is not written; that is .*png"):
        check_plot(tmp_path / "a.docx")
    check_plot(tmp_path / "a.PNG")
    check_plot(tmp_path / "a")
