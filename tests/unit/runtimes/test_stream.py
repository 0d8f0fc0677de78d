"""A generator's run: what it may yield, what its pieces become, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.models import python_source

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.tensors import Array
from forebay.models.streaming import Partial, Progress
from forebay.runtimes.python import PythonRuntime
from forebay.runtimes.stream import Ended, Event, Piece, Stream, StreamingRuntime, Told

HEAD = """
class Told(forebay.Model):
    inputs = {"x": ("FP32", [])}
    outputs = {"text": ("BYTES", []), "ids": ("INT32", [-1]), "score": ("FP32", [2])}
    seen = []

    def predict(self, x):
"""
WHOLE = '{"text": [b"a"] * len(x), "ids": np.zeros((len(x), 1), np.int32), "score": np.zeros((len(x), 2))}'


def runtime_of(folder: Path, body: str, head: str = HEAD) -> PythonRuntime:
    """The model above with these lines as its `predict`."""
    indented = "".join(f"        {line}\n" for line in body.splitlines())
    return PythonRuntime(python_source(folder / "told.py", head + indented, "Told"), "cpu", 1)


def started(folder: Path, body: str, rows: int = 2) -> Stream:
    return runtime_of(folder, body).stream({"x": np.zeros(rows, np.float32)}, rows)


def to_end(stream: Stream) -> list[Event]:
    """Everything that comes of it."""
    found: list[Event] = []
    while (events := stream.events()) is not None:
        found += events
    return found


def ends(events: list[Event]) -> dict[int, list[Any]]:
    """The whole answer of each row, as lists."""
    return {event.row: [array.tolist() for array in event.outputs] for event in events if isinstance(event, Ended)}


def test_pieces_of_texts_and_of_variable_axes_are_joined_and_of_others_the_last_counts(tmp_path: Path) -> None:
    body = """
for step in range(3):
    text = [f"{step}a", f"{step}b"]
    yield text, np.full((2, step), step, np.int32), np.array([[step, 0], [0, step]], np.float32)
"""
    events = to_end(started(tmp_path, body))
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [piece.rows for piece in pieces] == [[0, 1]] * 3
    assert [piece.outputs[1].tolist() for piece in pieces] == [[[], []], [[1], [1]], [[2, 2], [2, 2]]]
    assert ends(events) == {
        0: [[b"0a1a2a"], [[1, 2, 2]], [[2.0, 0.0]]],
        1: [[b"0b1b2b"], [[1, 2, 2]], [[0.0, 2.0]]],
    }


def test_a_row_may_get_pieces_and_end_by_itself(tmp_path: Path) -> None:
    body = """
yield forebay.Partial(1, ("x", [7], [1.0, 2.0]))
yield [forebay.Partial(0, {"text": b"only", "score": [3, 4]}, last=True), forebay.Partial(1, {"text": "y"})]
yield forebay.Partial(1, last=True)
"""
    stream = started(tmp_path, body)
    first, second, third = stream.events(), stream.events(), stream.events()
    assert [type(event) for event in first or []] == [Piece]
    assert [type(event) for event in second or []] == [Piece, Ended, Piece]
    assert ends(second or []) == {0: [[b"only"], [[]], [[3.0, 4.0]]]}, "text that is not given is empty"
    assert ends(third or []) == {1: [[b"xy"], [[7]], [[1.0, 2.0]]]}
    assert not stream.live
    assert stream.events() == []
    assert stream.events() is None


def test_a_whole_batch_may_be_yielded_while_some_rows_have_ended(tmp_path: Path) -> None:
    body = f"yield {WHOLE}\nyield forebay.Partial(0, last=True)\nyield {WHOLE}"
    events = to_end(started(tmp_path, body))
    assert [event.rows for event in events if isinstance(event, Piece)] == [[0, 1], [1]]
    assert {row: texts[0] for row, texts in ends(events).items()} == {0: [b"a"], 1: [b"aa"]}


def test_an_array_that_is_filled_again_is_not_changed_in_what_was_kept(tmp_path: Path) -> None:
    body = """
ids = np.zeros((2, 1), np.int32)
for step in range(3):
    ids[:] = step
    yield ["", ""], ids, np.zeros((2, 2))
"""
    assert ends(to_end(started(tmp_path, body)))[0][1] == [[0, 1, 2]]


def test_progress(tmp_path: Path) -> None:
    body = f"""
yield forebay.Progress(0.25)
yield forebay.Progress(0.5, row=1)
yield {WHOLE}
yield forebay.Partial(1, last=True)
yield forebay.Progress(0.75)
yield forebay.Progress(1, row=1)
"""
    events = to_end(started(tmp_path, body))
    assert [event for event in events if isinstance(event, Told)] == [
        Told([0, 1], 0.25),
        Told([1], 0.5),
        Told([0], 0.75),
    ]
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            Progress(bad)


def test_what_can_be_yielded_shows_itself() -> None:
    assert repr(Partial(3, "x", last=True)) == "Partial(3, 'x', last=True)"
    assert repr(Progress(0.5, row=2)) == "Progress(0.5, row=2)"


def test_an_empty_list_gives_nobody_anything(tmp_path: Path) -> None:
    stream = started(tmp_path, f"yield []\nyield {WHOLE}")
    assert stream.events() == []
    assert len(ends(to_end(stream))) == 2


def test_the_model_is_told_who_has_left_and_gets_no_pieces_through_for_them(tmp_path: Path) -> None:
    body = f"""
gone = yield {WHOLE}
gone = yield forebay.Partial(0, ("-", [1], [1, 1]))
text = ",".join(map(str, sorted(gone)))
yield {WHOLE}
yield forebay.Partial(0, {{"text": text}})
"""
    stream = started(tmp_path, body, rows=3)
    stream.events()
    assert stream.cancel([1, 2])
    events = to_end(stream)
    assert [event.rows for event in events if isinstance(event, Piece)] == [[0], [0], [0]]
    assert {row: texts[0] for row, texts in ends(events).items()} == {0: [b"a-a1,2"]}


def test_a_closed_generator_sees_it_where_it_stands(tmp_path: Path) -> None:
    body = f"""
try:
    while True:
        yield {WHOLE}
finally:
    self.seen.append("closed")
"""
    runtime = runtime_of(tmp_path, body)
    stream = runtime.stream({"x": np.zeros(2, np.float32)}, 2)
    stream.events()
    assert stream.cancel([0])
    assert not stream.cancel([1])
    assert runtime._model.seen == []  # type: ignore[attr-defined]
    stream.close()
    assert runtime._model.seen == ["closed"]  # type: ignore[attr-defined]


def test_a_generator_that_will_not_close_is_an_error(tmp_path: Path) -> None:
    body = f"""
try:
    yield {WHOLE}
except GeneratorExit:
    yield {WHOLE}
"""
    stream = started(tmp_path, body)
    stream.events()
    with pytest.raises(ExecutionError, match="ignored GeneratorExit"):
        stream.close()


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("raise ValueError('no')\nyield", "model_error", "ValueError: no"),
        ("raise MemoryError('no')\nyield", "out_of_memory", "MemoryError: no"),
        (f"yield {WHOLE}\nreturn 3", "output_mismatch", "yield it instead"),
        ("yield forebay.Partial(2, 'x')", "output_mismatch", "row 2 of a batch of 2 rows"),
        ("yield forebay.Partial('a', 'x')", "output_mismatch", "row 'a'"),
        ("yield forebay.Progress(0.5, row=-1)", "output_mismatch", "row -1"),
        ("yield forebay.Partial(0, {'txt': 'x'})", "output_mismatch", "txt"),
        ("yield forebay.Partial(0, ('x', [1]))", "output_mismatch", "2 outputs"),
        ("yield forebay.Partial(0, {'score': [1, 2, 3]})", "output_mismatch", "score"),
        ("yield {'text': ['only one']}", "output_mismatch", "2 rows"),
        ("yield {'text': ['a', 'b']}", "output_mismatch", "predict yielded no 'score'"),
        ("yield forebay.Progress(2)", "model_error", "from 0 to 1"),
    ],
)
def test_what_goes_wrong_has_a_code_and_says_how(tmp_path: Path, body: str, code: str, says: str) -> None:
    with pytest.raises(ExecutionError, match=says) as caught:
        to_end(started(tmp_path, body))
    assert caught.value.code == code


HEAD_OF_JOINS = """
class Told(forebay.Model):
    inputs = {{"x": ("FP32", [])}}
    outputs = {{"text": ("BYTES", []), "score": ("FP32", [2])}}
    joins = {joins}

    def predict(self, x):
"""


def test_joins_may_be_told_otherwise(tmp_path: Path) -> None:
    head = HEAD_OF_JOINS.format(joins={"text": "last"})
    runtime = runtime_of(tmp_path, "yield ['first'], [[0, 0]]\nyield ['second'], [[1, 1]]", head)
    (text, score) = runtime.run({"x": np.zeros(1, np.float32)}, 1)
    assert (text.tolist(), score.tolist()) == (["second"], [[1.0, 1.0]])


@pytest.mark.parametrize(
    ("joins", "says"),
    [
        ("{'text': 'sum'}", r"joins\['text'\] is 'sum'; .*\"join\" or \"last\""),
        ("{'txet': 'join'}", r"joins\['txet'\].*text, score"),
        ("{'score': 'join'}", r"cannot be joined: give it a variable axis"),
        ("['text']", "write joins = "),
    ],
)
def test_joins_that_cannot_be_are_refused_at_load(tmp_path: Path, joins: str, says: str) -> None:
    with pytest.raises(SetupError, match=says) as caught:
        runtime_of(tmp_path, "yield x", HEAD_OF_JOINS.format(joins=joins))
    assert caught.value.code == "model_load_error"


def rows_of(arrays: list[Array]) -> list[Any]:
    return [array.tolist() for array in arrays]


def test_a_run_without_listeners_gives_whole_answers_filled_up_to_the_longest(tmp_path: Path) -> None:
    body = """
yield ["a", "b"], [[1], [2]], [[0, 0], [0, 0]]
yield forebay.Partial(0, last=True)
yield forebay.Partial(1, ("c", [3, 4], [5, 6]))
"""
    runtime = runtime_of(tmp_path, body)
    assert rows_of(runtime.run({"x": np.zeros(2, np.float32)}, 2)) == [
        ["a", b"bc"],
        [[1, 0, 0], [2, 3, 4]],
        [[0.0, 0.0], [5.0, 6.0]],
    ]


def test_a_model_streams_if_its_predict_is_a_generator_or_has_returned_one(tmp_path: Path) -> None:
    assert runtime_of(tmp_path, f"yield {WHOLE}").streams
    plain = runtime_of(tmp_path, f"return {WHOLE}")
    assert isinstance(plain, StreamingRuntime)
    assert not plain.streams
    assert [type(event) for event in to_end(plain.stream({"x": np.zeros(1, np.float32)}, 1))] == [Piece, Ended]
    handed = runtime_of(tmp_path, f"return iter([{WHOLE}])")
    assert not handed.streams
    handed.run({"x": np.zeros(1, np.float32)}, 1)
    assert handed.streams
