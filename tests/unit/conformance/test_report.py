"""The report in its three forms."""

from __future__ import annotations

import io

from rich.console import Console

from forebay.conformance.check import Level, Result, Verdict
from forebay.conformance.report import as_json, failed, markdown, print_report, summary
from forebay.conformance.sources import BINARY, OIP


def a_result(id_: str, verdict: Verdict, level: Level = Level.MUST, extension: str | None = None) -> Result:
    source = BINARY if extension else OIP
    return Result(id_, "area", level, extension, "A [title] | x", "quote", source, verdict, "GET /", "200", "404 <no>")


RESULTS = [
    a_result("a.pass", Verdict.PASS),
    a_result("a.fail", Verdict.FAIL, extension="binary_tensor_data"),
    a_result("a.should", Verdict.FAIL, Level.SHOULD),
    a_result("a.seen", Verdict.OBSERVED, Level.OBSERVE),
    a_result("a.none", Verdict.NOT_ANNOUNCED),
]


def test_a_must_that_fails_makes_the_run_fail_and_a_should_does_not() -> None:
    assert failed(RESULTS)
    assert not failed([one for one in RESULTS if one.id != "a.fail"])


def test_the_summary_counts_what_was_judged() -> None:
    told = summary(RESULTS)
    assert told == "1 of 3 checks passed; 1 MUST and 1 SHOULD failed; 1 observed; 1 not announced"


def test_the_table_shows_the_sentence_what_was_sent_and_what_came() -> None:
    text = io.StringIO()
    print_report(Console(file=text, width=160), RESULTS)
    for part in ("a.fail", "MUST*", "A [title] | x", "“quote” (Triton extension_binary_data.md)", "GET /", "404 <no>"):
        assert part in text.getvalue()


def test_markdown_is_one_line_a_check() -> None:
    lines = markdown(RESULTS).splitlines()
    assert len(lines) == 2 + len(RESULTS)
    assert lines[3] == "| `a.fail` | MUST* | FAIL | A [title] \\| x | expected 200; 404 &lt;no> |"


def test_json_holds_everything() -> None:
    document = as_json("http://h", "m", RESULTS)
    assert document["passed"] is False
    assert document["counts"] == {"pass": 1, "FAIL": 2, "observed": 1, "not announced": 1}
    assert document["results"][1]["extension"] == "binary_tensor_data"
    assert document["results"][1]["source_url"] == BINARY.url
