"""Files that a process left in the middle of a row, or that something else has damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.unit.request_log.rig import TEXTS, Rig, texts_of

from forebay.request_log.reading import Reading, parts_of
from forebay.request_log.segment import Damage


def written(tmp_path: Path) -> tuple[Rig, Path]:
    rig = Rig(tmp_path, TEXTS)
    for word in ("one", "two", "three"):
        rig.ask(word)
    (path,) = rig.close().folder.rglob("*.rows")
    return rig, path


def test_cut_anywhere_all_whole_rows_are_read(tmp_path: Path) -> None:
    rig, path = written(tmp_path)
    whole = path.read_bytes()
    before = 0
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        reading, damage = Reading(rig.folder), Damage()
        rows = texts_of(list(reading))
        assert rows == ["one", "two", "three"][: len(rows)]
        assert len(rows) >= before
        before = len(rows)
        assert reading.damage.torn <= 1
        assert reading.damage.broken == 0
        assert sum(part.rows for part in parts_of(rig.folder, damage)) == len(rows)
    assert before == 3
    path.write_bytes(whole[:-1])
    reading = Reading(rig.folder)
    assert texts_of(list(reading)) == ["one", "two"]
    assert reading.damage.torn == 1


def test_any_byte_changed_is_never_another_row(tmp_path: Path) -> None:
    rig, path = written(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        reading = Reading(rig.folder)
        rows = texts_of(list(reading))
        assert set(rows) < {"one", "two", "three"}
        assert reading.damage.torn + reading.damage.broken >= 1


def test_a_new_process_tells_of_it_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="forebay.request_log")
    rig, path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-2])
    again = Rig(tmp_path, TEXTS)
    for word in ("one", "three"):
        again.ask(word)
    again.close()
    assert texts_of(rig.read()) == ["one", "two", "three"]
    assert "1 files of the request log end in a row that is not whole" in caplog.text


def test_other_files_do_no_harm(tmp_path: Path) -> None:
    rig, path = written(tmp_path)
    (path.parent / "00000000000000-1-ff.rows").write_bytes(b"something else")
    (path.parent / "notes.txt").write_text("mine")
    (rig.folder / "file").write_text("mine")
    reading = Reading(rig.folder)
    assert len(texts_of(list(reading))) == 3
    assert (reading.damage.broken, reading.damage.torn) == (1, 0)
