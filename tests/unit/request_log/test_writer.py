"""The thread: nobody waits for it, what it cannot hold is counted, a function that hangs keeps nothing from ending."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.request_log.rig import TEXTS, Rig, texts_of

from forebay.request_log import logs
from forebay.request_log.row import encode
from forebay.telemetry.request_log_metrics import REQUEST_LOG_TABLE


def test_what_is_queued_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path, TEXTS)
    rig.destination._writer._most_queued_bytes = 10_000
    goes_on, began = threading.Event(), threading.Event()

    def slow(row: dict[str, Any]) -> dict[str, Any]:
        began.set()
        goes_on.wait(30)
        return row

    rig.destination._redact = slow
    rig.ask("first")
    assert began.wait(30)
    for number in range(100):
        rig.ask(f"{number} " + "x" * 500)
    queued_rows = rig.counts.sampled - rig.counts.dropped["queue_full"]
    assert 5 < queued_rows < 20
    goes_on.set()
    assert len(rig.close().read()) == queued_rows
    assert rig.counts.written == queued_rows


def test_a_function_that_hangs_keeps_nothing_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "CLOSE_S", 0.05)
    caplog.set_level(logging.WARNING, logger="forebay.request_log")  # whatever level others have left above it
    rig, goes_on = Rig(tmp_path, TEXTS), threading.Event()
    rig.destination._redact = lambda row: goes_on.wait(30) and None
    rig.ask("a")
    rig.close()
    rig.ask("b")
    assert "the request log was not done in 0.05 s" in caplog.text
    assert rig.counts.dropped == {"queue_full": 1}
    assert rig.destination._writer._thread is not None
    assert rig.destination._writer._thread.daemon
    goes_on.set()
    rig.destination._writer._thread.join(30)


def test_a_model_that_goes_leaves_no_file_open(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    rig.ask("a")
    rig.logs.leave(rig.destination)
    thread = rig.destination._writer._thread
    assert thread is not None
    for _ in range(1000):
        if rig.counts.written and not rig.destination.store._open:
            break
        threading.Event().wait(0.01)
    assert rig.destination.store._open == {}
    rig.ask("b")  # what was let in before is still answered
    assert texts_of(rig.close().read()) == ["a", "b"]


def test_where_nothing_is_logged_there_is_no_thread(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    rig.logs.leave(rig.destination)
    assert rig.destination._writer._thread is None
    assert rig.close().read() == []


def test_the_thread_goes_on_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, TEXTS)

    def fails_once(body: Any) -> bytes:
        monkeypatch.setattr("forebay.request_log.writer.encode", encode)
        raise RuntimeError("about secret things")

    monkeypatch.setattr("forebay.request_log.writer.encode", fails_once)
    rig.ask("secret things")
    for _ in range(1000):
        if rig.counts.dropped:
            break
        threading.Event().wait(0.01)
    rig.ask("b")
    assert texts_of(rig.close().read()) == ["b"]
    assert rig.counts.dropped == {"stopped": 1}
    assert "a request could not be logged: RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_metrics_are_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    for word in ("a", "a", "b"):
        rig.ask(word)
    rig.close()
    families = {family.name: family for family in rig.logs.metrics.collect()}
    assert list(families) == list(REQUEST_LOG_TABLE)
    told = {
        name: [(sample.labels, sample.value) for sample in family.samples if not sample.name.endswith("_created")]
        for name, family in families.items()
    }
    place = {"model": "m", "version": "1"}
    assert told["forebay_request_log_sampled_rows"] == [(place, 3)]
    assert told["forebay_request_log_written_rows"] == [(place, 2)]
    assert told["forebay_request_log_dropped_rows"] == [({**place, "reason": "duplicate"}, 1)]
    assert told["forebay_request_log_written_bytes"] == [(place, rig.counts.written_bytes)]
    held = sum(path.stat().st_size for path in rig.folder.rglob("*.rows"))
    assert told["forebay_request_log_bytes"] == [({"model": "m"}, held)]


def test_what_fails_beside_the_rows_ends_neither_the_thread_nor_its_room(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    failed = threading.Event()

    def fails(version: str, digest: str) -> None:
        failed.set()
        raise RuntimeError("of the disk")

    rig.destination.store.let_go = fails  # type: ignore[method-assign]
    rig.ask("a")
    rig.logs.leave(rig.destination)
    assert failed.wait(30)
    rig.ask("b")
    assert sorted(texts_of(rig.close().read())) == ["a", "b"]
    writer = rig.destination._writer
    assert writer._put_bytes == writer._done_bytes
