"""The file-type model answers what Magika's own class answers."""

from __future__ import annotations

import gzip
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from examples.magika_types import FileType
from magika import Magika
from tests.unit.examples.conftest import column

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def file_type() -> FileType:
    model = FileType()
    model.load("cpu")
    return model


@pytest.fixture(scope="module")
def official() -> Magika:
    return Magika()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def contents() -> list[bytes]:
    """Real files of this repository and the interpreter, and the corner cases of Magika's rules."""
    files = [ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "LICENSE", ROOT / ".gitignore", Path(sys.executable)]
    files += sorted((ROOT / "src").rglob("*.py"))[:20]
    pixels = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)) + _chunk(b"IDAT", zlib.compress(b"\0" * 72))
    picture = b"\x89PNG\r\n\x1a\n" + pixels + _chunk(b"IEND", b"")
    corner_cases = [
        b"",
        b"  \n",
        b"abc",
        b"\xff\xfe",
        b"1234567",
        b"12345678",
        b" " * 5000,
        b" " * 5000 + b"hello world",
    ]
    corner_cases += [b" " * 4090 + b"12345678" + b" " * 9, b"\xff" + b" " * 5000, b"\0" * 10, b"x" * 1024, b"x" * 9000]
    made = [
        picture,
        gzip.compress(b"forebay" * 100, mtime=0),
        json.dumps({"jobs": [{"id": i} for i in range(30)]}).encode(),
    ]
    return [file.read_bytes() for file in files] + corner_cases + made


def test_alone_the_answers_equal_the_packages(file_type: FileType, official: Magika) -> None:
    labels = set()
    for content in contents():
        expected = official.identify_bytes(content)
        got = file_type.predict(column([content]))
        assert got["label"][0, 0].decode() == str(expected.output.label)
        assert float(got["score"][0, 0]) == pytest.approx(expected.prediction.score, abs=1e-6)
        labels.add(got["label"][0, 0])
    assert {b"empty", b"unknown", b"txt", b"python", b"markdown", b"toml", b"png", b"gzip", b"json", b"elf"} <= labels


def test_a_batch_gives_the_same_labels(file_type: FileType) -> None:
    rows = contents()
    got = file_type.predict(column(rows))
    alone = [file_type.predict(column([row])) for row in rows]
    assert got["label"].shape == got["score"].shape == (len(rows), 1)
    assert got["label"][:, 0].tolist() == [one["label"][0, 0] for one in alone]
    # The published graph loses digits in its layer norm, so a score moves a little with the size of the batch.
    np.testing.assert_allclose(got["score"][:, 0], [one["score"][0, 0] for one in alone], atol=0.02)


def test_unsure_answers_become_general_labels(file_type: FileType) -> None:
    assert file_type._trusted("markdown", 0.74) == "txt"
    assert file_type._trusted("markdown", 0.76) == "markdown"
    assert file_type._trusted("png", 0.49) == "unknown"
    assert file_type._trusted("randombytes", 0.99) == "unknown"


def test_examples_are_rows_of_the_signature(file_type: FileType) -> None:
    rows = file_type.examples()
    assert rows
    labels = file_type.predict(column([row["content"][0] for row in rows]))["label"]
    assert labels[:, 0].tolist() == [b"python", b"json", b"pdf"]
