"""The outcome for people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.tune.test_search import by, found

from forebay.core.errors import SetupError
from forebay.tune import report

FACTS = report.Facts("m", "2026-01-01", "A CPU", 2, "0.1.0", "made-up inputs", with_deadline=False)
OUTCOME = found(by(lambda one: 100.0 * one.instances / one.threads))


def test_the_evidence_says_what_where_and_what_else_there_was() -> None:
    lines = report.evidence(OUTCOME, FACTS, "tune.json")
    assert lines[0] == "2026-01-01, A CPU, 2 cores, forebay 0.1.0, made-up inputs"
    assert lines[1].startswith("p99 <= 50 ms: ")
    assert "2x1 cap 256" in lines[1]
    assert lines[-1] == "all figures: tune.json"


def test_the_evidence_says_where_the_rate_is_not_confirmed() -> None:
    hasty = found(by(lambda one: 100.0 * one.instances / one.threads), most_s=1.0)
    (line,) = [one for one in report.evidence(hasty, FACTS, "tune.json") if one.startswith("unconfirmed: ")]
    assert "held in short probes" in line
    assert json.loads(report.document(hasty, FACTS))["unconfirmed"] == line.removeprefix("unconfirmed: ")
    assert not any("unconfirmed" in one for one in report.evidence(OUTCOME, FACTS, "tune.json"))


def test_the_table_lists_what_was_measured_the_chosen_one_first_and_the_rest_by_reason() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report.table(OUTCOME))
    text = capture.get()
    lines = [line.split() for line in text.splitlines() if "x" in line.split(" ")[0]]
    assert lines[0][0] == "2x1"
    assert lines[0][-1] == "chosen"
    measured = [one for one in OUTCOME.results if one.probes]
    reasons = {(one.configuration.size, one.reason) for one in OUTCOME.results if not one.probes}
    assert len(lines) == len(measured) + len(reasons)
    assert "8, 32, 256" in text


def test_the_document_has_every_probe() -> None:
    document = json.loads(report.document(OUTCOME, FACTS))
    assert document["format"] == 1
    assert document["chosen"] == {"artefact": "m", "instances": 2, "threads": 1, "max_batch_rows": 256}
    probes = [probe for one in document["results"] for probe in one["probes"]]
    assert len(probes) == sum(len(one.probes) for one in OUTCOME.results) > 5


def test_the_picture_is_written_and_one_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    report.plot(tmp_path / "tune.png", OUTCOME)
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SetupError, match="cannot write the plot"):
        report.plot(tmp_path / "no" / "tune.png", OUTCOME)
