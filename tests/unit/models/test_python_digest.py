"""The digest of a Python model before it is loaded: its file, its class, and in a repository all of its version."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from forebay.models import source_files
from forebay.models.artefact import inspect
from forebay.models.repository import read_model
from forebay.models.source import LoadOptions, ModelSource, digest_of, open_source
from forebay.models.source_files import digest_once

TWO = "import forebay\nclass A(forebay.Model): pass\nclass B(forebay.Model): pass\n"
LONG_AGO_NS = 10**18


def write(path: Path, text: str) -> Path:
    """A file that was written long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "repo" / "m" / "1"
    write(folder / "model.py", TWO)
    write(folder / "weights.txt", "3")
    return folder


def source_of(version: Path) -> ModelSource:
    return read_model(version.parent).source(int(version.name))


def test_two_classes_of_one_file_are_two_models(tmp_path: Path) -> None:
    file = write(tmp_path / "two.py", TWO)
    a, b = open_source(f"{file}:A", "m"), open_source(f"{file}:B", "m")
    assert digest_of(a) != digest_of(b)
    assert digest_of(a) == digest_of(open_source(f"{file}:A", "other"))


@pytest.mark.parametrize("name", ["weights.txt", "more.bin", "sub/tokenizer.json", "_parts/helper.py", "model.py"])
def test_every_file_of_a_version_counts(version: Path, name: str) -> None:
    before = digest_of(source_of(version))
    write(version / name, TWO + "# other\n")
    changed = digest_of(source_of(version))
    assert changed != before
    os.utime(version / name)
    assert digest_of(source_of(version)) == changed


@pytest.mark.parametrize(
    "name",
    [
        *("__pycache__/model.cpython-311.pyc", "sub/__pycache__/a.pyc", ".weights.txt.swp", ".git/HEAD"),
        *("latency.json", "../2/weights.txt", "../model.toml"),
    ],
)
def test_what_says_nothing_about_the_answers_does_not_count(version: Path, name: str) -> None:
    source = source_of(version)
    before = digest_of(source)
    write(version / name, "{}")
    assert digest_of(source) == before


def test_a_file_by_another_name_is_another_file(version: Path) -> None:
    before = digest_of(source_of(version))
    (version / "weights.txt").rename(version / "other.txt")
    assert digest_of(source_of(version)) != before


def test_where_the_repository_lies_does_not_matter(version: Path, tmp_path: Path) -> None:
    before = digest_of(source_of(version))
    (tmp_path / "repo").rename(tmp_path / "moved")
    assert digest_of(source_of(tmp_path / "moved" / "m" / "1")) == before


def test_what_was_known_of_a_version_holds_until_its_weights_change(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)  # what was just written counts as settled
    known = inspect(source_of(version), LoadOptions())
    assert known.holds()
    (version / "log.txt").write_text("written while it was loaded")
    assert known.holds()
    (version / "weights.txt").write_text("10")
    assert not known.holds()
    assert inspect(source_of(version), LoadOptions()).digest != known.digest


def test_a_file_is_read_once_as_long_as_nobody_writes_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    plain = source_files.file_digest

    def counted(file: Path) -> str:
        read.append(file)
        return plain(file)

    monkeypatch.setattr(source_files, "file_digest", counted)
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    digest_once(file)
    first = digest_once(file)  # so soon after it was written it may be written again within one tick of the clock
    assert len(read) == 2
    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)
    assert digest_once(file) == digest_once(file) == first
    assert len(read) == 3
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size, and the time set back
    assert digest_once(file) == plain(file) != first
