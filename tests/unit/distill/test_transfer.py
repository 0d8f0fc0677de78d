"""Rows and where they come from: files, the request log, a file of answers; and how they are parted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.distill.lessons import linear_answers, numbers, part, target, texts
from tests.unit.request_log.rig import TEXTS, Rig

from forebay.core.errors import SetupError
from forebay.distill.augment import made_up
from forebay.distill.teacher import key_of
from forebay.distill.transfer import (
    Transfer,
    from_file,
    from_log,
    from_outputs,
    labels_as_places,
    shown,
    split,
)
from forebay.models.signature import Signature, TensorSpec
from forebay.request_log.row import Origin, Row, body_of, encode
from forebay.request_log.segment import framed, opening

TEXT = Signature((TensorSpec("text", "BYTES", (1,)),), (TensorSpec("y", "FP32", (2,)),))


def test_a_file_of_texts_is_read_and_equal_ones_count_once(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,label\nyes,1\nno,0\nyes,1\n")
    found = from_file(tmp_path / "texts.csv", TEXT, None)
    assert ([shown(row) for row in found.rows], found.labels, found.duplicates) == (["yes", "no"], ["1", "0"], 1)
    assert found.rows[0]["text"].tolist() == [b"yes"]


def log_of(folder: Path, rows: list[tuple[str, list[float], str]], *, redacted: bool | None = False) -> Path:
    """A request log of `text` to `y` as a server writes it: text, answer, digest of who answered."""
    below = folder / "anonymous"
    below.mkdir(parents=True)
    for number, (text, answer, digest) in enumerate(rows):
        row = Row(float(number), texts([text])[0], {"y": np.array(answer, np.float32)})  # type: ignore[arg-type]
        key = number.to_bytes(16, "big")
        content = opening(Origin("m", "1", digest, "anonymous", (), redacted))
        content += framed(key, encode(body_of(row)))
        (below / f"{number:014d}-00000000-1-aa.rows").write_bytes(content)
    return folder


def test_the_log_gives_all_rows_and_the_answers_of_this_teacher_only(tmp_path: Path) -> None:
    folder = log_of(tmp_path / "m", [("a", [1, 2], "now"), ("b", [3, 4], "before"), ("c", [5, 6], "now")])
    found = from_log(folder, "m", TEXT, "now", None)
    assert [shown(row) for row in found.rows] == ["a", "b", "c"]
    answers: dict[str, Any] = {shown(row): found.known.get(key_of(row)) for row in found.rows}
    assert answers["b"] is None
    assert (answers["a"]["y"].tolist(), answers["c"]["y"].tolist()) == ([1.0, 2.0], [5.0, 6.0])
    assert found.source == "the request log of m"


def test_where_a_logged_row_was_redacted_the_teacher_is_asked_since_its_answer_is_to_another(tmp_path: Path) -> None:
    (tmp_path / "redact.py").write_text(
        "def redact(row):\n    row['inputs']['text'] = row['inputs']['text'].replace('ada', '***')\n    return row\n"
    )
    for text, settings in (
        ("ada is ill", {"request_log_redact": f"{tmp_path / 'redact.py'}:redact"}),
        ("it rains", {}),
    ):
        rig = Rig(tmp_path / "data", TEXTS, **settings)
        rig.ask(text)
        rig.close()
    found = from_log(rig.folder, "m", TEXTS, "d1", None)
    rows = {shown(row): row for row in found.rows}  # in the order in which they were written, each by its own process
    assert set(rows) == {"*** is ill", "it rains"}
    assert list(found.known) == [key_of(rows["it rains"])]


def test_a_log_that_does_not_say_whether_it_is_redacted_gives_rows_and_no_answers(tmp_path: Path) -> None:
    found = from_log(log_of(tmp_path / "m", [("a", [1, 2], "now")], redacted=None), "m", TEXT, "now", None)
    assert (len(found.rows), found.known) == (1, {})


def test_logged_rows_that_do_not_fit_the_model_as_it_is_now_are_passed_over(tmp_path: Path) -> None:
    folder = log_of(tmp_path / "m", [("a", [1, 2], "now")])
    other = Signature((TensorSpec("x", "FP32", (3,)),), TEXT.outputs)
    found = from_log(folder, "m", other, "now", None)
    assert (found.rows, found.passed_over) == ([], 1)


def test_a_file_of_answers_tells_the_teachers_signature(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "logged.npz",
        allow_pickle=False,
        **{
            "text": np.array([["yes"], ["no"], ["yes"]]),
            "output.y": np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]], np.float32),
            "_at": np.zeros(3),
        },
    )
    signature, found = from_outputs(tmp_path / "logged.npz")
    assert signature == TEXT
    assert ([shown(row) for row in found.rows], found.duplicates) == (["yes", "no"], 1)
    assert found.known[key_of(found.rows[1])]["y"].tolist() == [3.0, 4.0]


def test_answers_of_several_models_are_no_teachers(tmp_path: Path) -> None:
    rows = {"x": np.arange(4.0), "output.y": np.zeros(4), "_version": np.array(["1", "1", "2", "2"])}
    np.savez(tmp_path / "mixed.npz", allow_pickle=False, **rows, _digest=np.array(["d1", "d1", "d2", "d2"]))
    with pytest.raises(SetupError, match=r"answers of 2 models \(d1, d2; versions 1, 2\).*--version"):
        from_outputs(tmp_path / "mixed.npz")
    np.savez(tmp_path / "one.npz", allow_pickle=False, **rows, _digest=np.array(["d1"] * 4))
    assert len(from_outputs(tmp_path / "one.npz")[1].rows) == 4


def test_labels_of_a_file_of_answers_are_read_as_those_of_samples(tmp_path: Path) -> None:
    for labels in (np.array([b"ham", b"spam"]), np.array([1.0, 0.0])):
        np.savez(tmp_path / "a.npz", allow_pickle=False, x=np.arange(2.0), labels=labels, **{"output.y": np.zeros(2)})
        assert from_outputs(tmp_path / "a.npz")[1].labels in (["ham", "spam"], ["1", "0"])


def test_what_a_table_filled_up_is_cut_off_again(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "logged.npz",
        allow_pickle=False,
        **{
            "ids": np.array([[7, 8, 0], [5, 6, 4]]),
            "_shape.ids": np.array([[2], [3]]),
            "output.y": np.zeros((2, 2), np.float32),
            "labels": np.array([1, 0]),
        },
    )
    signature, found = from_outputs(tmp_path / "logged.npz")
    assert signature.inputs == (TensorSpec("ids", "INT64", (-1,)),)
    assert ([row["ids"].tolist() for row in found.rows], found.labels) == ([[7, 8], [5, 6, 4]], ["1", "0"])


@pytest.mark.parametrize(
    ("name", "arrays", "told"),
    [
        ("a.npz", {"x": np.zeros((3, 2))}, r"holds x \[3, 2\]; it should be a .npz"),
        ("a.npz", {"x": np.zeros((3, 2)), "output.y": np.zeros((4, 2))}, "it should be a .npz"),
        ("a.npz", {"x": np.zeros((2, 2)), "output.y": np.zeros((2, 2)), "labels": np.zeros(3)}, "3 labels for 2 rows"),
        ("a.jsonl", {}, ".jsonl is not taken; it should be a .npz"),
        ("b.npz", None, "No such file"),
    ],
)
def test_a_file_that_holds_no_answers_is_told_what_it_should(
    tmp_path: Path, name: str, arrays: dict[str, Any] | None, told: str
) -> None:
    if arrays is not None:
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **arrays)
    with pytest.raises(SetupError, match=told):
        from_outputs(tmp_path / name)


def test_labels_are_places_or_names_of_classes() -> None:
    of = target("logits", 2)
    assert labels_as_places(["1", "0"], of, "f.csv").tolist() == [1, 0]
    named = target("logits", 3)
    named = type(named)(named.spec, named.form, named.width, ("ham", "spam", "2"))
    assert labels_as_places(["spam", "2"], named, "f.csv").tolist() == [1, 2]
    with pytest.raises(SetupError, match="the label '0' is no class"):
        labels_as_places(["spam", "0", "2"], named, "f.csv")
    stars = type(named)(named.spec, named.form, named.width, ("1", "2", "3"))
    assert labels_as_places(["1", "3"], stars, "f.csv").tolist() == [0, 2]
    assert labels_as_places(["1", "0", "2"], stars, "f.csv").tolist() == [1, 0, 2], "places, since 0 is no name"
    numbers_as_names = type(named)(named.spec, named.form, named.width, ("1.0", "0.0", "02"))
    assert labels_as_places(["1", "0", "02"], numbers_as_names, "f.csv").tolist() == [0, 1, 2]
    with pytest.raises(SetupError, match=r"f.csv: the label 'good' is no class of 'y'.*--classes A,B"):
        labels_as_places(["good"], of, "f.csv")


def test_the_three_parts_share_no_row_and_come_of_the_seed() -> None:
    rows = numbers(200)
    whole, transfer = part(rows, linear_answers(rows)), Transfer("f.npz", "", rows)
    train, stop, test = split(transfer, whole, 0.2, 0, by_class=False, tested_apart=False)
    assert test is not None
    assert (len(train), len(stop), len(test)) == (160, 20, 20)
    assert len({key_of(row) for one in (train, stop, test) for row in one.rows}) == 200
    again, other = (
        split(transfer, whole, 0.2, 0, by_class=False, tested_apart=False),
        split(transfer, whole, 0.2, 1, by_class=False, tested_apart=False),
    )
    assert np.array_equal(again[0].wanted, train.wanted)
    assert not np.array_equal(other[0].wanted, train.wanted)
    train, stop, none = split(transfer, whole, 0.2, 0, by_class=False, tested_apart=True)
    assert (len(train), len(stop), none) == (160, 40, None)


def test_classes_of_few_rows_are_judged_by_thirty_and_what_cannot_be_is_told() -> None:
    rows = numbers(200)
    wanted = linear_answers(rows)

    def parts(count: int, held_out: float, *, tested_apart: bool = False) -> list[int]:
        found = split(
            Transfer("f.npz", "", rows[:count]),
            part(rows[:count], wanted[:count]),
            *(held_out, 0),
            by_class=True,
            tested_apart=tested_apart,
        )
        return [len(one) for one in found if one is not None]

    assert parts(80, 0.1) == [40, 10, 30]
    assert parts(200, 0.1) == [160, 10, 30]
    assert parts(200, 0.25) == [150, 20, 30]
    assert parts(200, 0.4) == [120, 40, 40]
    assert parts(32, 0.1, tested_apart=True) == [24, 8]
    with pytest.raises(SetupError, match=r"f.npz holds 79 rows that differ.*at least 80.*at least 30 .*--test FILE"):
        parts(79, 0.1)


def test_too_few_rows_are_told_with_their_file() -> None:
    rows = numbers(20)
    with pytest.raises(SetupError, match=r"f.npz holds 20 rows that differ.*at least 32"):
        split(Transfer("f.npz", "", rows), part(rows, linear_answers(rows)), 0.1, 0, by_class=False, tested_apart=False)


def test_texts_are_made_of_texts_and_of_nothing_else() -> None:
    rows = texts(["the river rose overnight and flooded the fields", "one", ""])
    found = [shown(row) for row in made_up(rows, 20, seed=0)]
    words = shown(rows[0]).split()
    assert len(found) == 20
    for text in found:
        kept = iter(words)
        assert text
        assert all(word in kept for word in text.split()), text  # in the same order
    assert [shown(row) for row in made_up(rows, 20, seed=0)] == found
    assert [shown(row) for row in made_up(rows, 20, seed=1)] != found
