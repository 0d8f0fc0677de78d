"""results.json, report.md and the table for the README."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.job_report import job_lines
from benchmarks.optimize_report import optimize_lines
from benchmarks.points import points
from benchmarks.student_report import student_lines

TITLES = {
    "mlp": "Small MLP: 16 floats in, 3 out, 64 connections, one instance",
    "minilm": "MiniLM sentence embeddings: texts of 5 to 200 words, 32 clients, all cores",
    "trees": "XGBoost: 300 trees of depth 6, 28 features, 64 connections, one instance",
    "images": "Pictures of 150 KB, binary, 16 connections",
    "jobs": "Jobs on the small MLP, one a request, 64 submitters, durable: completed a second",
}
Results = Mapping[str, Any]


def write(folder: Path, results: Results) -> None:
    """Write `results.json` and `report.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    (folder / "report.md").write_text("\n".join(report_lines(results)) + "\n")


def report_lines(results: Results) -> Iterator[str]:
    """The whole report."""
    yield "# Bench report"
    yield ""
    yield from machine_lines(results["machine"])
    for name, title in TITLES.items():
        if results.get(name):
            yield from ("", f"## {title}", "")
            yield from throughput_table(results[name])
    yield from _trees_alone(results.get("trees"))
    yield from _images_note(results.get("images"))
    yield from _one_client(results.get("one_client"))
    yield from _open_loop(results.get("open_loop"))
    yield from _mixed(results.get("mixed"))
    yield from _fairness(results.get("fairness"))
    yield from job_lines(results)
    yield from _cache(results.get("cache"))
    yield from _cache_zipf(results.get("cache_zipf"))
    yield from _request_log(results.get("request_log"))
    yield from _rest(results)
    yield from _sizing(results.get("sizing"))
    yield from _tune(results.get("tune"))
    yield from optimize_lines(results.get("optimize"))
    yield from student_lines(results.get("students"))
    yield from _points(results)


def markdown(results: Results) -> str:
    """The table for the README: tuned peers first, with date and machine."""
    lines = ["| workload | Forebay | against | ratio, median (lowest to highest) |", "|---|--:|---|--:|"]
    for name in TITLES:
        found = results.get(name)
        if not found or "Forebay" not in found["rates"]:
            continue
        ours = f"{found['rates']['Forebay']['median']:,.0f} {found['unit']}"
        for peer in tuned_first(found["ratios"]):
            lines.append(f"| {name} | {ours} | {peer} | {_ratio(found['ratios'][peer])} |")
    machine = results["machine"]
    lines += [
        "",
        f"Measured {machine['date']} on {machine['cpu']}, {machine['usable_cores']} cores, Python {machine['python']}.",
    ]
    return "\n".join(lines)


def tuned_first(ratios: Mapping[str, Any]) -> list[str]:
    """Names in the order of the tables: tuned peers, then the others as measured."""
    return sorted(ratios, key=lambda name: "tuned" not in name)


def machine_lines(machine: Mapping[str, Any]) -> Iterator[str]:
    """Date, machine and versions."""
    yield f"- date: {machine['date']}" + (" (quick run)" if machine.get("quick") else "")
    yield f"- CPU: {machine['cpu']}, {machine['usable_cores']} cores; load average before {machine['load_before']:.2f}"
    yield f"- system: {machine['system']}, Python {machine['python']}"
    for label, key in (("Forebay's packages", "versions"), ("peers' packages", "peer_versions")):
        yield f"- {label}: " + ", ".join(f"{name} {version}" for name, version in machine[key].items())
    yield "- load generator, servers and checking client share these cores; rounds are interleaved (A B C A B C)"


def throughput_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Rates and ratios of one closed-loop workload."""
    spread = "median (lowest to highest)"
    yield f"| server | {found['unit']}, {spread} | Forebay / this, {spread} | checked | wrong |"
    yield "|---|--:|--:|--:|--:|"
    for name in [*(name for name in found["rates"] if name == "Forebay"), *tuned_first(_others(found["rates"]))]:
        rate, turns = found["rates"][name], found["turns"][name]
        span = f"{rate['median']:,.0f} ({rate['lowest']:,.0f} to {rate['highest']:,.0f})"
        ratio = _ratio(found["ratios"][name]) if name in found["ratios"] else ""
        checked = sum(turn.get("checked", 0) for turn in turns)
        wrong = sum(turn.get("wrong", 0) for turn in turns)
        yield f"| {name} | {span} | {ratio} | {checked or ''} | {wrong if checked else ''} |"


def _others(rates: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rate for name, rate in rates.items() if name != "Forebay"}


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f}x ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def _trees_alone(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    alone = found["alone"]
    yield from ("", "XGBoost, one row without a server:", "")
    for name, figures in alone["us"].items():
        against = f"; {_ratio(alone['ratios'][name])} of Forebay's form" if name in alone["ratios"] else ""
        yield f"- {name}: {figures['median']:.1f} us{against}"
    yield f"- {alone['note']}"


def _images_note(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found:
        yield ""
        yield f"The model's own time for one picture: {found['model_ms']:.3f} ms."


def _one_client(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## One client alone, small MLP", "")
    yield f"The model's own time: {found['model_ms']:.4f} ms (not taken off for the echo, which runs no model)."
    yield from ("", "| server | p50 added, ms, median (lowest to highest) |", "|---|--:|")
    for name, added in found["added_ms"].items():
        yield f"| {name} | {added['median']:.3f} ({added['lowest']:.3f} to {added['highest']:.3f}) |"


def _open_loop(found: Mapping[str, Any] | None) -> Iterator[str]:
    for model, figures in (found or {}).items():
        yield from ("", f"## Open loop, {model}: SLO {figures['slo_ms']:g} ms, 1.0x = {figures['capacity']:.1f}/s", "")
        yield (
            "Latency counts from the intended send. A run is void where the generator's p99 lateness is above "
            f"{figures['late_bound_ms']:g} ms."
        )
        yield ""
        yield (
            "| arrivals | load | offered/s | goodput/s | late | 503 | 504 | errors | refusal p99, ms "
            "| generator CPU | generator late p99, ms | void |"
        )
        yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"
        for run in figures["runs"]:
            refusal = f"{run['refusal_ms']['p99']:.1f}" if run["refusal_ms"] else ""
            lateness = f"{run['lateness_ms']['p99']:.1f}" if run["lateness_ms"] else ""
            yield (
                f"| {run['process']} | {run['load']:g} | {run['offered_per_s']:.1f} | {run['goodput_per_s']:.1f} | "
                f"{run['late']} | {run['refused']} | {run['deadline']} | {run['errors']} | {refusal} | "
                f"{run['cpu_share']:.0%} | {lateness} | {'void' if run['void'] else ''} |"
            )


def _mixed(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## MLP client while 1 MB JSON bodies arrive, twenty a second", "")
    yield from ("| load | client's p99, ms, median (lowest to highest) |", "|---|--:|")
    for label, p99 in found["p99_ms"].items():
        yield f"| {label} | {p99['median']:.2f} ({p99['lowest']:.2f} to {p99['highest']:.2f}) |"


def _fairness(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## Two models, the first at three times its capacity", "")
    yield (
        "The second gets 35 % of its fair share; by wrk: 128 connections in a closed loop. Kept: what the first still "
        "does, of what it does alone. A round is void where others used the machine, or the generator was late."
    )
    yield from ("", "| models | the second's p99 against alone | the first: kept | the first: 504 | void rounds |")
    yield "|---|--:|--:|--:|--:|"
    for pair, figures in found["pairs"].items():
        if figures["p99_ratio"] is None:
            yield f"| {pair} | | | | {figures['void_rounds']} |"
            continue
        kept, late = figures["heavy_kept"], figures["heavy_deadline_share"]
        yield (
            f"| {pair} | {_ratio(figures['p99_ratio'])} | {kept['median']:.0%} | {late['median']:.1%} | "
            f"{figures['void_rounds']} |"
        )
    yield ""
    for shared in found["weights"]:
        first, second = shared["weights"]
        yield f"- both overloaded, weights {first:g}:{second:g}: the first gets {shared['first_share']:.1%}"


def _rest(results: Results) -> Iterator[str]:
    if idle := results.get("idle"):
        yield from ("", "## Idle", "")
        yield f"{idle['percent']:.2f} % of a core over {idle['seconds']:g} s, {idle['processes']} processes."
    if shapes := results.get("shapes"):
        yield from ("", "## Alternating shapes", "")
        one, two = shapes["one shape"]["mean_batch_rows"], shapes["two shapes"]["mean_batch_rows"]
        yield f"Mean rows a batch with 32 clients: {one:.2f} with one shape, {two:.2f} with two."
    if streaming := results.get("streaming"):
        yield from ("", "## First piece of a streaming model", "")
        added = streaming["added_ms"]
        yield (
            f"p50 over the model's own time, one client: {added['median']:.3f} ms "
            f"({added['lowest']:.3f} to {added['highest']:.3f})."
        )


def _cache(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## The answer cache", "")
    yield from (
        "| model | requests | req/s | off, req/s | cache / off, median (lowest to highest) | checked | wrong |",
    )
    yield "|---|---|--:|--:|--:|--:|--:|"
    for model, figures in found.items():
        for on, off in (("hits", "off"), ("exact, all different", "off, all different")):
            turns, rates = figures[on]["turns"], figures["rates"]
            checked, wrong = (sum(turn[key] for turn in turns) for key in ("checked", "wrong"))
            medians = f"{rates[on]['median']:,.0f} | {rates[off]['median']:,.0f}"
            yield f"| {model} | {on} | {medians} | {_ratio(figures[on])} | {checked} | {wrong} |"


def _request_log(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## The request log", "")
    head = "| log | req/s | off, req/s | of off, by starts (lowest to highest) | requests a CPU second, of off"
    yield f"{head} | CPU of the process that writes | written | dropped | checked | wrong |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    rates, off = found["rates"], found["off_turns"]
    for name in ("off again", "1 %", "1 %, redacted"):
        if name in found:
            turns = found[name]["turns"]
            written, dropped, cpu_s, writer_cpu_s = (
                sum(turn[key] for turn in turns) for key in ("written", "dropped", "cpu_s", "writer_cpu_s")
            )
            checked, wrong = (sum(turn[key] for turn in [*off, *turns]) for key in ("checked", "wrong"))
            medians = f"{rates[name]['median']:,.0f} | {rates['off']['median']:,.0f}"
            counts = f"{writer_cpu_s / cpu_s:.2%} | {written:,.0f} | {dropped:,.0f} | {checked} | {wrong}"
            spans = " | ".join(
                f"{ratio['median']:.3f}x ({ratio['lowest']:.3f} to {ratio['highest']:.3f})"
                for ratio in (found[name], found[name]["by_cpu"])
            )
            yield f"| {name} | {medians} | {spans} | {counts} |"


def _cache_zipf(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    keys, hits, warm, words = found["keys"], found["hits"], found["warm_up"], found["words"]
    yield from ("", f"## The answer cache under Zipf traffic: MiniLM, {keys:,} texts, s = 1", "")
    if keys != found["full_keys"]:
        less = found["full_keys"] / keys
        yield f"A quick run: {less:g} times fewer texts, warm-up draws and bytes than in the full one."
    yield (
        f"- the cache may take {found['memory_bytes'] / 2**20:.1f} MiB; it held {hits['entries']:,.0f} answers in "
        f"{hits['bytes'] / 2**20:.1f} MiB; while measured {hits['evictions']:,} went, {hits['refreshes']} were "
        "computed anew early"
    )
    yield (
        f"- warm-up: {warm['draws']:,} draws of {warm['texts']:,} texts in {warm['seconds']:.0f} s, "
        f"{warm['server']['answers_total miss']:,.0f} computed"
    )
    yield f"- mean words: {words['texts']:.1f} of all texts, {words['requests']:.1f} of requests by the law"
    for side in ("clients", "server"):
        counts = hits[side]
        yield (
            f"- timed answers as {'clients saw' if side == 'clients' else 'the server counted'} them: "
            f"{counts['exact']:,} kept, {counts['coalesced']:,} coalesced, {counts['miss']:,} computed"
        )
    if hits["server"] != hits["clients"] or hits["other_answers"]:
        yield f"- **these differ**, and {hits['other_answers']} answers had no outcome"
    yield from ("", "| cache | texts/s, median (lowest to highest) | on / off | checked | wrong | generator, cores |")
    yield "|---|--:|--:|--:|--:|--:|"
    for name, turns in found["turns"].items():
        rate, ratio = found["rates"][name], "" if name == "off" else _ratio(found["ratio"])
        checked, wrong = (sum(turn[key] for turn in turns) for key in ("checked", "wrong"))
        cores = max(turn["cpu_share"] for turn in turns)
        span = f"{rate['median']:,.0f} ({rate['lowest']:,.0f} to {rate['highest']:,.0f})"
        yield f"| {name} | {span} | {ratio} | {checked} | {wrong} | {cores:.2f} |"
    yield from ("", "| ideal LRU of as many | keys held | its hit rate | ours / its | ours, coalesced left out / its |")
    yield "|---|--:|--:|--:|--:|"
    for name, ideal in hits["ideals"].items():
        yield (
            f"| {name} | {ideal['entries']:,.0f} | {ideal['hit_rate']:.4f} | {ideal['of_ideal']:.3f} | "
            f"{ideal['exact_of_ideal']:.3f} |"
        )
    yield from ("", f"Ours: {hits['hit_rate']:.4f}, coalesced left out {hits['exact_rate']:.4f}.")


def _sizing(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## `instances` and `threads` by measurement", "")
    yield "Closed loop over HTTP; each cell is rows/s of instances x threads. The last column compares round by round."
    yield from ("", "| model | every setting | auto took | auto, rows/s | auto / best, median (lowest to highest) |")
    yield "|---|---|---|--:|--:|"
    for model, figures in found.items():
        rates = figures["rates"]
        grid = ", ".join(f"{name} {rate['median']:,.0f}" for name, rate in rates.items() if name != "auto")
        yield (
            f"| {model} | {grid} | {figures['chosen']['tuning_chosen']} | {rates['auto']['median']:,.0f} | "
            f"{_ratio(figures['of_best'])} of {figures['best']} |"
        )


def _tune(found: Mapping[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    yield from ("", "## `forebay tune` against a whole grid", "")
    yield "Open loop; answers/s within the objective. tune / best: both climb in turns. At its rate: at the rate that"
    yield "the grid's best had kept up, where one that falls short by a little has a queue that grows."
    head = "| model | objective | whole grid | tune took | tune / best | at its rate | time of tune and of the grid |"
    yield from ("", head)
    yield "|---|---|---|---|--:|--:|--:|"
    for model, figures in found.items():
        grid = ", ".join(f"{name} {rate:,.0f}" for name, rate in figures["grid_per_s"].items())
        times = f"{figures['tune_s']:.0f} s, {figures['grid_s']:.0f} s"
        yield (
            f"| {model} | {figures['slo']} | {grid} | {figures['chosen']} {figures['chosen_per_s']:,.0f} | "
            f"{_ratio(figures['of_best'])} of {figures['best']} | {_ratio(figures['at_its_rate'])} | {times} |"
        )


def _points(results: Results) -> Iterator[str]:
    found = points(results)
    if not found:
        return
    yield from (
        "",
        "## Acceptance points",
        "",
        "| point | what | measured | at least | aim | |",
        "|---|---|--:|--:|--:|---|",
    )
    for point in found:
        verdict = "aim" if point.aim_met else "met" if point.least_met else "**missed**"
        yield f"| {point.number} | {point.what} | {point.measured} | {point.least} | {point.aim} | {verdict} |"
