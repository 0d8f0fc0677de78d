"""Label files: where they are looked for, what their lines mean, and what is said where they cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.core.errors import SetupError
from forebay.engine.setup import read_labels
from forebay.models.source import ModelSource


def source(folder: Path) -> ModelSource:
    return ModelSource("m", "onnx", str(folder / "m.onnx"))


def test_a_line_is_a_label_and_an_empty_line_is_none(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\r\n\n großer Hund \n", "utf-8")
    assert read_labels(Path("labels.txt"), source(tmp_path)) == ("cat", "", "großer Hund")
    assert read_labels(tmp_path / "labels.txt", source(tmp_path / "elsewhere")) == ("cat", "", "großer Hund")
    assert read_labels(None, source(tmp_path)) == ()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    for file, reason in (("missing.txt", "No such file"), ("bad.txt", "not UTF-8"), (".", "Is a directory")):
        with pytest.raises(SetupError, match=reason) as caught:
            read_labels(Path(file), source(tmp_path))
        assert caught.value.code == "config_error"
        assert str(tmp_path) in caught.value.message
        assert "m.labels" in caught.value.message
