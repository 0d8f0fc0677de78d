"""A student of MiniLM with a head: alone, as a cascade with its teacher, and as a variant under three times the load.

The student begins with MiniLM's vectors of tokens and learns, without labels, from all messages that are not used
otherwise, and from two texts that are made of each of them; what is sent are other messages, 10,000 of them, and the
threshold of the cascade is measured on 2,000 more.
Servers take turns; each is what `forebay serve` does by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from benchmarks.bench_run import MODELS, ROOT, Bench, Contender, Json, ratios, spread
from benchmarks.pools import SplitPool, protocol_json, protocol_values, text_rows
from benchmarks.servers import Server
from benchmarks.turns import load_json, open_loop, wrk
from examples.minilm.build import source_folder

from forebay.bench.bodies import Endpoint
from forebay.bench.connection import Answer
from forebay.bench.generator import Check
from forebay.core.tensors import Array

FOLDER = MODELS / "minilm"
TEACHER_MODEL = f"{ROOT / 'examples' / 'minilm' / 'classifier.py'}:Classifier"
NAME, SMALL = "classifier", "classifier-small"
TEACHER, STUDENT, CASCADE = "teacher", "student", "cascade at 99 %"
CONNECTIONS = 32
TURNS_A_ROUND = 4
"""All servers are up at once and take short turns: the machine's speed changes more from minute to minute."""
AGAIN_S = 1.0
"""Of a server that was warm before, until it is asked as before."""
CALIBRATION = 2000
"""Of the traffic, by which threshold and accuracy are measured; the rest is sent."""
AGREEMENT = "99%"
FLOOR = 0.8
"""Accuracy below which no answer may be."""
OVERLOAD = 3.0
SLO_MS = 250.0
LATE_BOUND_MS = 12.5


@dataclass(frozen=True)
class Made:
    """What was made before anything is timed."""

    student: Path
    """A folder to serve."""
    cascade: Path
    variants: Path
    report: Json
    """Of distilling."""
    texts: Sequence[str]
    """To send."""


def run(bench: Bench) -> Json:
    """Accuracy, throughput against the teacher, and goodput in overload."""
    made = make(bench)
    found: Json = {"judged": made.report, "cascade": json.loads(made.cascade.read_text())}
    found |= _throughput(bench, made)
    found["overload"] = _overload(bench, made, found["rates"][TEACHER]["median"])
    return found


def make(bench: Bench) -> Made:
    """Distil, and measure thresholds and variants, by the commands that a user has."""
    if not (FOLDER / "head.npz").is_file():
        _forebay(bench, sys.executable, str(ROOT / "examples" / "minilm" / "head.py"))
    traffic = (FOLDER / "traffic.txt").read_text(encoding="utf-8").splitlines()
    transfer, held = FOLDER / "transfer.txt", bench.scratch / "held.txt"
    held.write_text("\n".join(traffic[:CALIBRATION]) + "\n", encoding="utf-8")
    out = bench.scratch / "student"
    forebay = str(Path(sys.executable).with_name("forebay"))
    _forebay(
        bench, forebay, "distill", TEACHER_MODEL, "--samples", str(transfer), "--test", str(FOLDER / "sentiments.csv"),
        "--classes", "negative,positive", "--student", "text-cnn", "--vectors", str(source_folder()),
        "--augment", "2", "--name", SMALL, "--min-agreement", "0.8", "--out", str(out),
        "--data-dir", str(MODELS.parent),
    )  # fmt: skip
    cascade, variants = bench.scratch / "cascade.json", bench.scratch / "variants.json"
    models, rows = (TEACHER_MODEL, str(out)), ("--samples", str(held))
    _forebay(bench, forebay, "cascade", *models, *rows, "--agreement", AGREEMENT, "--out", str(cascade))
    _forebay(bench, forebay, "variants", *models, *rows, "--out", str(variants))
    report = json.loads((out / "report.json").read_text())
    return Made(out, cascade, variants, report, traffic[CALIBRATION:])


def _forebay(bench: Bench, *command: str) -> None:
    bench.tell(f"students: {' '.join(Path(part).name for part in command[:3])} ...")
    subprocess.run(command, cwd=bench.scratch, check=True, stdout=subprocess.DEVNULL)


def _throughput(bench: Bench, made: Made) -> Json:
    known = {name: _answers(bench, made, name) for name in (NAME, SMALL)}
    alone, both = [TEACHER_MODEL], [TEACHER_MODEL, str(made.student)]
    contenders = {
        TEACHER: Contender(TEACHER, bench.forebay(*alone), _pool(made, NAME), _check(known[NAME])),
        STUDENT: Contender(STUDENT, bench.forebay(str(made.student)), _pool(made, SMALL), _check(known[SMALL])),
        CASCADE: Contender(
            CASCADE,
            bench.forebay(*both, "--set", f"{NAME}.cascade={made.cascade}"),
            _pool(made, NAME),
            _check(known[NAME], known[SMALL]),
        ),
    }

    names, servers = (TEACHER, STUDENT, CASCADE), dict[str, tuple[Server, SplitPool]]()
    rounds = TURNS_A_ROUND * bench.plan.minilm_rounds
    number = dict.fromkeys(names, 0)
    with ExitStack() as running:

        def turn(name: str) -> Json:
            plan, contender, first = bench.plan, contenders[name], name not in servers
            if first:
                servers[name] = running.enter_context(bench.serve(contender))
            server, pool = servers[name]
            # A turn sends a part of them: each begins elsewhere, so that all are sent.
            start = number[name] * len(pool.heads) // rounds
            number[name] += 1
            file = pool.turned(start).write(bench.scratch / "students.bin")
            figures = wrk(
                server, pool, file, connections=CONNECTIONS, warm_s=plan.warm_s if first else AGAIN_S,
                seconds=plan.wrk_s, check=contender.check,
            )  # fmt: skip
            counted = _counted(server, "forebay_cascade_rows_total") if name == CASCADE else {}
            return {**figures.as_json(), "rows_so_far": counted}

        taken = bench.take_turns("students", names, turn, unit="texts/s", rounds=rounds)
    same = np.array([known[NAME][place].argmax() == known[SMALL][place].argmax() for place in known[NAME]])
    return {
        "rates": {name: spread([one["rate"] for one in turns]) for name, turns in taken.items()},
        "ratios": {name: ratios({"Forebay": taken[name], TEACHER: taken[TEACHER]})[TEACHER] for name in names[1:]},
        "student_agrees": float(same.mean()),
        "turns": taken,
    }


def _answers(bench: Bench, made: Made, name: str) -> Mapping[int, Array]:
    """What a model says of the first texts, asked one by one before anything is timed."""
    model = TEACHER_MODEL if name == NAME else str(made.student)
    contender = Contender(name, bench.forebay(model), _pool(made, name), lambda place, answer: None)
    found: dict[int, Array] = {}

    def keep(place: int, answer: Answer) -> bool | None:
        found[place] = protocol_values(answer)
        return None

    with bench.serve(contender) as (server, pool):
        open_loop(
            server, pool, process="poisson", rate=60.0, warm_s=0.0, seconds=10.0, slo_ms=None,
            late_bound_ms=float("inf"), check=keep,
        )  # fmt: skip
    return found


def _pool(made: Made, name: str) -> Callable[[Endpoint], SplitPool]:
    return lambda endpoint: protocol_json(endpoint, name, "text", "BYTES", text_rows(made.texts))


def _check(*known: Mapping[int, Array]) -> Check:
    """The answer is what one of these models says; a place that was not asked before is not checked."""

    def check(place: int, answer: Answer) -> bool | None:
        if place not in known[0]:
            return None
        got = protocol_values(answer)
        return any(got.size == 2 and bool(np.allclose(got, one[place], atol=1e-3)) for one in known)

    return check


def _counted(server: Server, metric: str) -> Json:
    """A counter of the model by its last label."""
    endpoint = server.endpoint
    with urlopen(f"http://{endpoint.host}:{endpoint.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.split('answered_by="')[-1].split('variant="')[-1].split('"')[0]: float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(metric + "{")
    }


def _overload(bench: Bench, made: Made, able_per_s: float) -> Json:
    """Goodput at three times what the teacher can do, without variants and with them, in turns."""
    settings = [f"--set={NAME}.variants={made.variants}", f"--set={NAME}.variant_min_accuracy={FLOOR}"]
    both = [TEACHER_MODEL, str(made.student), f"--set={NAME}.slo_ms={SLO_MS:g}"]
    arguments = {"without": both, "with": [*both, *settings]}

    def pool(endpoint: Endpoint) -> SplitPool:
        return protocol_json(endpoint, NAME, "text", "BYTES", text_rows(made.texts), timeout_ms=SLO_MS)

    def turn(name: str) -> Json:
        contender = Contender(name, bench.forebay(*arguments[name]), pool, lambda place, answer: None)
        with bench.serve(contender) as (server, bodies):
            result, _ = open_loop(
                server, bodies, process="poisson", rate=OVERLOAD * able_per_s, warm_s=2.0,
                seconds=bench.plan.open_s, slo_ms=SLO_MS, late_bound_ms=LATE_BOUND_MS, check=None,
            )  # fmt: skip
            answered = _counted(server, "forebay_variant_requests_total")
        return {**load_json(result), "rate": result.goodput_per_s, "answered": answered}

    taken = bench.take_turns(
        "three times the load", tuple(arguments), turn, unit="in time/s", rounds=bench.plan.open_rounds
    )
    measured = json.loads(made.variants.read_text())
    accuracy = {one["name"]: one["accuracy"] for one in (measured["model"], *measured["variants"])}
    below = sum(count for one in taken["with"] for name, count in one["answered"].items() if accuracy[name] < FLOOR)
    return {
        "offered_per_s": OVERLOAD * able_per_s,
        "rates": {name: spread([one["rate"] for one in turns]) for name, turns in taken.items()},
        "ratio": ratios({"Forebay": taken["with"], "without": taken["without"]})["without"],
        "accuracy": accuracy,
        "below_floor": below,
        "turns": taken,
    }
