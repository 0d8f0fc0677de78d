"""Records: which states follow each other; envelopes of other versions."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, RequestError
from forebay.jobs.record import (
    CANCELED,
    MOVES,
    OVERDUE,
    SILENT,
    TERMINAL,
    JobRecord,
    JobSpec,
    State,
    transition,
)
from forebay.jobs.store import RETRY_AFTER_MOST_S, retry_after_s

STATES: tuple[State, ...] = get_args(State)


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_a_state_follows_only_where_it_may(before: State, after: State) -> None:
    record = JobRecord(spec=JobSpec(id="1", model="m", tenant="t"), state=before, sequence=7)
    if after in MOVES.get(before, ()):
        transition(record, after)
        assert (record.state, record.sequence) == (after, 8)
    else:
        with pytest.raises(ValueError, match=f"job 1 is {before} and cannot become {after}"):
            transition(record, after)
        assert (record.state, record.sequence) == (before, 7)


def test_every_state_either_ends_a_job_or_can_be_left() -> None:
    assert set(MOVES) | TERMINAL == set(STATES)
    assert not set(MOVES) & TERMINAL


def test_errors_of_the_store_have_codes_of_the_tree() -> None:
    assert CANCELED.code in RequestError.codes()
    assert OVERDUE.code in DeadlineExceeded.codes()
    assert SILENT.code in ExecutionError.codes()


def test_an_envelope_of_a_later_build_with_more_fields_is_read() -> None:
    spec = JobSpec(id="1", model="m", tenant="t", level=2, metadata={"a": [1, None]})
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(spec)) | {"colour": "blue", "nested": {"x": 1}}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=JobSpec) == spec


def test_the_time_to_try_again_grows_up_to_a_minute() -> None:
    waits = [retry_after_s(full_for_s) for full_for_s in (-5.0, 0.0, 1.0, 10.0, 60.0, 1e6)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.0, RETRY_AFTER_MOST_S)
    assert AdmissionError("full", retry_after_s=waits[0]).retry_after_s >= 1.0
