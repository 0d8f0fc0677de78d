"""The writing side: it goes on whatever happens, and tells what became of every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.request_log.rig import TEXTS, Rig, texts_of

from forebay.request_log.row import encode
from forebay.telemetry.request_log_metrics import REQUEST_LOG_TABLE


def test_a_model_that_goes_leaves_no_file_open(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    rig.ask("a")
    rig.logs.leave(rig.outlet)
    assert rig.counts.written == 1
    assert rig.destination.store._open == {}
    assert rig.near.writer._places == {}
    rig.ask("b")  # what was let in before is still answered
    assert rig.counts.written == 2
    assert texts_of(rig.close().read()) == ["a", "b"]


def test_one_that_goes_and_comes_again_is_known_under_another_number(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    for word in ("a", "b", "c"):
        rig.ask(word)
        rig.logs.leave(rig.outlet)
    rig.logs.leave(rig.outlet)  # a second time is no news
    assert rig.outlet.place == 3
    assert texts_of(rig.close().read()) == ["a", "b", "c"]
    assert rig.counts.written == 3


def test_it_goes_on_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, TEXTS)

    def fails_once(body: Any) -> bytes:
        monkeypatch.setattr("forebay.request_log.writer.encode", encode)
        raise RuntimeError("about secret things")

    monkeypatch.setattr("forebay.request_log.writer.encode", fails_once)
    rig.ask("secret things")
    rig.ask("b")
    assert texts_of(rig.close().read()) == ["b"]
    assert rig.counts.dropped == {"stopped": 1}
    assert "a request could not be logged: RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_a_function_that_cannot_be_loaded_any_more_lets_nothing_through(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "redact.py").write_text("def redact(row):\n    return row\n")
    rig = Rig(tmp_path, TEXTS, request_log_redact=f"{tmp_path / 'redact.py'}:redact")
    rig.logs.leave(rig.outlet)
    (tmp_path / "redact.py").write_text("def redact(")
    rig.ask("secret")
    assert rig.close().read() == []
    assert rig.counts.dropped == {"redaction_failed": 1}
    assert "it has a syntax error at line 1" in caplog.text


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
