"""A teacher's answers on disk: asked once, through kills and damage."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.unit.distill.lessons import FakeTeacher, Heard, numbers, texts

from forebay.core.errors import SetupError
from forebay.core.tensors import Array, bytes_array
from forebay.distill.kept import KeptAnswers
from forebay.distill.teacher import ask_all, key_of

DIGEST = "d" * 64


def kept_in(folder: Path, digest: str = DIGEST) -> KeptAnswers:
    return KeptAnswers(folder, "fake", digest)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = numbers(20)
    with pytest.raises(KeyboardInterrupt):
        ask_all(FakeTeacher(fails_after=12), rows, {}, kept_in(tmp_path), Heard())
    second, heard = FakeTeacher(), Heard()
    found = ask_all(second, rows, {}, kept_in(tmp_path), heard)
    assert [key_of(row) for row in second.asked] == [key_of(row) for row in rows[12:]]
    assert (found.asked, found.known, heard.asked[-1]) == (8, 12, (8, 8))
    expected = [float(row["x"].mean()) for row in rows]
    assert [float(answer["y"][0]) for answer in found.answers if answer] == pytest.approx(expected)
    third = FakeTeacher()
    again = ask_all(third, rows, {}, kept_in(tmp_path), Heard())
    assert (third.asked, again.asked, again.known) == ([], 0, 20)


KILLED = """\
import os, signal, sys
from pathlib import Path
import numpy as np
from forebay.distill.kept import KeptAnswers

kept = KeptAnswers(Path(sys.argv[1]), "fake", "d" * 64)
for place in range(100):
    kept.add(place.to_bytes(16, "big"), {"y": np.full(3, place, np.float32)})
    if place == 41:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_answered_before_a_kill_9_is_there_and_a_torn_end_is_passed_over(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    found = kept_in(tmp_path).load()
    assert len(found) == 42
    assert found[(41).to_bytes(16, "big")]["y"].tolist() == [41.0, 41.0, 41.0]
    (file,) = (tmp_path / DIGEST[:32]).iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    kept = kept_in(tmp_path)
    assert len(kept.load()) == 41
    assert kept.damage.torn == 1
    # What comes next goes to a file of its own, so that nothing stands behind a torn end.
    kept.add((41).to_bytes(16, "big"), {"y": np.zeros(3, np.float32)})
    kept.close()
    assert len(kept_in(tmp_path).load()) == 42


def test_a_damaged_answer_is_asked_again(tmp_path: Path) -> None:
    rows = numbers(5)
    ask_all(FakeTeacher(), rows, {}, kept_in(tmp_path), Heard())
    (file,) = (tmp_path / DIGEST[:32]).iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 0xFF
    file.write_bytes(bytes(content))
    teacher = FakeTeacher()
    found = ask_all(teacher, rows, {}, kept_in(tmp_path), Heard())
    assert (len(teacher.asked), found.known) == (1, 4)


def test_another_teacher_has_answers_of_its_own(tmp_path: Path) -> None:
    rows = numbers(4)
    ask_all(FakeTeacher(), rows, {}, kept_in(tmp_path), Heard())
    assert kept_in(tmp_path, "e" * 64).load() == {}
    # Digests that begin alike are told apart, too.
    assert kept_in(tmp_path, DIGEST[:40] + "f" * 24).load() == {}


def test_texts_and_whole_numbers_are_kept_and_only_for_the_owners_eyes(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    kept.add(b"k" * 16, {"label": bytes_array([b"gr\xc3\xbcn"], ()), "place": np.array(3, np.int64)})
    kept.close()
    (found,) = kept_in(tmp_path).load().values()
    assert (found["label"].reshape(-1)[0], int(found["place"])) == (b"gr\xc3\xbcn", 3)
    folder = tmp_path / DIGEST[:32]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]


def test_a_folder_that_cannot_be_written_is_told_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot be kept in .*--data-dir"):
        kept_in(tmp_path / "file").add(b"k" * 16, {"y": np.zeros(1, np.float32)})


def test_rows_without_an_answer_are_left_out_and_too_many_end_it(tmp_path: Path) -> None:
    found = ask_all(FakeTeacher(refuses=[3]), numbers(20), {}, None, Heard())
    assert (found.answers[3], found.failed) == (None, ["it is too long"])
    with pytest.raises(SetupError, match="no answer to 5 of 20 rows: it is too long"):
        ask_all(FakeTeacher(refuses=range(5)), numbers(20), {}, None, Heard())


def test_a_teacher_that_answers_nothing_is_not_asked_for_long() -> None:
    teacher = FakeTeacher(refuses=range(1000))
    with pytest.raises(SetupError, match="the teacher answers none of 50 rows: it is too long"):
        ask_all(teacher, numbers(1000), {}, None, Heard())
    assert len(teacher.asked) == 50


def test_answers_that_are_no_numbers_teach_nothing() -> None:
    rows = numbers(20)
    rows[7] = {"x": np.full(6, np.nan, np.float32)}
    found = ask_all(FakeTeacher(), rows, {}, None, Heard())
    assert found.answers[7] is None
    assert found.failed == ["it answers NaN or infinity in 'y'"]


def test_answers_that_came_with_the_rows_are_not_asked() -> None:
    rows, teacher = numbers(10), FakeTeacher()
    came = {key_of(rows[2]): {"y": np.array([5.0, 6.0], np.float32)}}
    found = ask_all(teacher, rows, came, None, Heard())
    assert (len(teacher.asked), found.known) == (9, 1)
    assert found.answers[2] is not None
    assert found.answers[2]["y"].tolist() == [5.0, 6.0]


def test_the_key_of_a_row_is_of_names_types_shapes_and_bytes() -> None:
    row = {"x": np.array([1.0, 2.0], np.float32)}
    others: list[dict[str, Array]] = [
        {"y": row["x"]},
        {"x": row["x"].astype(np.float64)},
        {"x": row["x"].reshape(1, 2)},
        {"x": np.array([1.0, 3.0], np.float32)},
        {"x": row["x"], "more": row["x"]},
    ]
    assert len({key_of(one) for one in [row, *others]}) == 6
    (as_bytes,) = texts(["grün"])
    as_text = {"text": np.array(["grün"], dtype=object)}
    assert key_of(as_bytes) == key_of(as_text)
    assert len(key_of(row)) == 16
