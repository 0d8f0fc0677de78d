"""Run one of docs/distill-spam.md, distill-sentiment.md and distill-digits.md, and measure what it serves in the end.

    python examples/distill.py spam|sentiment|digits [--seconds S]

It runs the page's own commands, but for the installation, and serves teacher, student and cascade as the page does. The
rows of `--test` go to each in turns; the table of what came back is in Markdown, as the page has it. Rates mean
something where nothing else runs on the machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.minilm import head

import forebay
import forebay.testing
from forebay.cascade.policy import Calibration, read_calibration
from forebay.core.tensors import Array, bytes_array
from forebay.optimize.run import machine_report

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("spam", "sentiment", "digits")
CONNECTIONS, ROWS, ROUNDS = 8, 16, 3
"""How rows are sent: so many a request, by so many clients, and each model in turns so often."""
CASCADE = 2
"""Which of the three ways to ask it is."""


class Served(NamedTuple):
    """What a page serves in the end. `test`: the rows to ask."""

    models: list[str]
    teacher: str
    cascade: Path
    test: Path


class Ways(NamedTuple):
    """For each way to ask, `WAYS`: the answers to all rows, and rows a second by round."""

    answers: list[Array]
    rates: list[list[float]]
    by_student: float
    """Share of the cascade's rows that its student answered."""


def commands(page: Path) -> list[list[str]]:
    """What a page has to be run, in words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in "".join(blocks).splitlines() if line.strip()]


def follow(lines: Sequence[Sequence[str]]) -> None:
    """Run its scripts and its distilling. Raises `SystemExit` where one fails."""
    programs = {"python": sys.executable, "forebay": str(Path(sys.executable).with_name("forebay"))}
    for program, *words in lines:
        if program == "python" or (program == "forebay" and words[0] in ("distill", "cascade")):
            print("$", shlex.join([program, *words]), flush=True)
            if code := subprocess.run([programs[program], *words], cwd=ROOT, check=False).returncode:
                raise SystemExit(code)


def served_by(lines: Sequence[Sequence[str]]) -> Served:
    """From the lines `forebay serve TEACHER STUDENT --set NAME.cascade=FILE` and `forebay distill ... --test FILE`."""
    distill, serve = (next(words for words in lines if words[:2] == ["forebay", kind]) for kind in ("distill", "serve"))
    *models, flag, setting = serve[2:]
    name, file = setting.split(".cascade=")
    assert flag == "--set"
    return Served(models, name, Path(file), Path(distill[distill.index("--test") + 1]))


def read_test(file: Path) -> tuple[Array, Array]:
    """Rows as the one input of the models takes them, and their labels."""
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            (name,) = set(arrays.files) - {"labels"}
            return arrays[name], arrays["labels"]
    texts, labels = head.read(file)
    return bytes_array(texts, (len(texts), 1)), labels


def measure(served: Served, calibration: Calibration, rows: Array, seconds: float) -> Ways:
    """Ask teacher, student and cascade all rows, in turns, for so many seconds each and once at least."""
    asked: tuple[tuple[str, dict[str, bool]], ...] = (
        (served.teacher, {"cascade": False}),
        (calibration.student_name, {}),
        (served.teacher, {}),
    )
    parts = [rows[place : place + ROWS] for place in range(0, len(rows), ROWS)]
    answers, rates = [rows] * len(asked), [list[float]() for _ in asked]
    by_student = Counter[str]()
    settings = {served.teacher: {"cascade": str(served.cascade.absolute())}}
    with (
        forebay.testing.serve(*served.models, model_settings=settings) as server,
        forebay.Client(server.base_url, timeout_s=60.0) as client,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        for _ in range(ROUNDS):
            for place, (model, parameters) in enumerate(asked):

                def ask(part: Array, model: str = model, parameters: dict[str, bool] = parameters) -> Array:
                    return client.infer(model, part, parameters=parameters)[calibration.output]

                before = answered(server.base_url, served.teacher)
                began, passes = time.monotonic(), 0
                while not passes or time.monotonic() - began < seconds:
                    answers[place] = np.concatenate(list(pool.map(ask, parts)))
                    passes += 1
                rates[place].append(passes * len(rows) / (time.monotonic() - began))
                if place == CASCADE:  # those that ask for the teacher alone count as answered by it
                    by_student += answered(server.base_url, served.teacher) - before
    return Ways(answers, rates, by_student["student"] / by_student.total())


def answered(base_url: str, model: str) -> Counter[str]:
    """How many rows of a cascade were answered so far, by whom."""
    with urlopen(f"{base_url}/metrics") as metrics:
        lines = [line for line in metrics.read().decode().splitlines() if f'model="{model}"' in line]
    counts = Counter[str]()
    for line in lines:
        if found := re.match(r'forebay_cascade_rows_total\{.*answered_by="(\w+)".*\} (\S+)$', line):
            counts[found[1]] += int(float(found[2]))
    return counts


def table(found: Ways, labels: Array, calibration: Calibration) -> Iterator[str]:
    """What was measured, in Markdown."""
    yield "| | accuracy | of the teacher's | says what the teacher says | rows/s | speed |"
    yield "|---|--:|--:|--:|--:|--:|"
    classes = [values.argmax(axis=1) for values in found.answers]
    right = [float(np.mean(one == labels)) for one in classes]
    rates = [statistics.median(one) for one in found.rates]
    for place, name in enumerate(("teacher", "student", f"cascade at {calibration.agreement:.4g}")):
        agrees = float(np.mean(classes[place] == classes[0]))
        low, high = min(found.rates[place]), max(found.rates[place])
        yield (
            f"| {name} | {_share(right[place])} | {_share(right[place] / right[0])} | {_share(agrees)} | "
            f"{rates[place]:,.0f} ({low:,.0f} to {high:,.0f}) | {rates[place] / rates[0]:.1f}x |"
        )
    machine = machine_report(1)
    yield ""
    yield (
        f"{len(labels):,} rows that none has learned from. Of the cascade's rows the student answered "
        f"{_share(found.by_student)}. {machine.cores} cores of {machine.processor}."
    )


def _share(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Distil, as a page does, and measure.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn, at least")
    options = parser.parse_args()
    os.chdir(ROOT)
    lines = commands(ROOT / "docs" / f"distill-{options.name}.md")
    follow(lines)
    served = served_by(lines)
    calibration = read_calibration(served.cascade)
    rows, labels = read_test(served.test)
    print("", *table(measure(served, calibration, rows, options.seconds), labels, calibration), sep="\n")


if __name__ == "__main__":
    main()
