"""What the report says of jobs, beside the table of their throughput."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def job_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """All sections that there are figures for."""
    yield from _throughput(results.get("jobs"))
    yield from _events(results.get("job_events"))
    yield from _queue(results.get("job_queue"))
    yield from _beside(results.get("job_beside"))
    yield from _shared(results.get("job_workers"))
    yield from _returns(results.get("broker_returns"))


def _throughput(found: Mapping[str, Any] | None) -> Iterator[str]:
    for name, turns in (found or {}).get("turns", {}).items():
        lost, submitted = (sum(turn[key] for turn in turns) for key in ("lost", "submitted"))
        cpu_us = sum(turn["server_cpu_us_a_job"] for turn in turns) / len(turns)
        yield f"- {name}: {submitted:,} jobs confirmed, {lost} of them not done; {cpu_us:,.0f} us of CPU a job"
    for name, ratios in (found or {}).get("stand_ins", {}).items():
        for other, ratio in ratios.items():
            told = f"{ratio['median']:.2f}x ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
            yield f"- {name} against {other}, in the same rounds: {told}"


def _events(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from (
        "",
        "## One job on an idle machine: from its submission to its end",
        "",
        "| way | p50, ms | |",
        "|---|--:|--:|",
    )
    for name, ms in found["ms"].items():
        yield f"| {name} | {ms['median']:.2f} | {ms['lowest']:.2f} to {ms['highest']:.2f} |"
    yield from ("", "## Idle streams of jobs' events", "")
    yield from ("| form | streams | memory each, KB | CPU of the web process | without them |", "|---|--:|--:|--:|--:|")
    for form, one in found["streams"].items():
        cpu = f"{one['percent']:.2f} % | {one['base_percent']:.2f} %"
        yield f"| {form} | {one['streams']:,} | {one['kb_a_stream']:.1f} | {cpu} |"


def _queue(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    empty, full = found["empty_per_s"]["median"], found["full_per_s"]["median"]
    yield from ("", "## Jobs that wait", "")
    yield f"{found['jobs']:,} jobs take {found['bytes_a_job']:.0f} bytes each, with bodies of {found['body_bytes']}."
    yield f"Submitted a second: {empty:,.0f} into an empty queue, {full:,.0f} then ({found['submit_ratio']:.2f}x)."


def _beside(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## Synchronous requests while jobs of the same model wait", "")
    yield from (
        "| model | requests/s | p99 alone, ms | beside jobs, ms | ratio | void rounds |",
        "|---|--:|--:|--:|--:|--:|",
    )
    for model, one in found.items():
        last, ratio = one["rounds"][-1], one["p99_ratio"]
        p99s = " | ".join(f"{last[key]['latency_ms']['p99']:.2f}" for key in ("alone", "beside"))
        text = "" if ratio is None else f"{ratio['median']:.2f}x ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
        yield f"| {model} | {last['rate_per_s']:.0f} | {p99s} | {text} | {one['void_rounds']} |"


def _shared(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## A backlog that two workers share: mean rows of a batch", "")
    yield from ("| carried by | one worker | two | ratio |", "|---|--:|--:|--:|")
    for carrier, one in found.items():
        rows = " | ".join(f"{one[key]['median']:.2f}" for key in ("one", "two", "ratio"))
        yield f"| {carrier} | {rows}x |"


def _returns(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from (
        "",
        "## A broker is killed, and begins again 3 s later",
        "",
        "| broker | seconds from when its port accepts until all workers take jobs |",
        "|---|--:|",
    )
    for broker, taken_s in found.items():
        yield f"| {broker} | {taken_s['median']:.2f} ({taken_s['lowest']:.2f} to {taken_s['highest']:.2f}) |"
