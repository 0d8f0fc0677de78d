"""Everything in docs/optimize-torch.md, in one command: the texts, the training, the search, and its table.

    python examples/sentiment/optimize.py [OPTIONS OF forebay optimize]

What is there already is not made again: delete `.forebay/models/sentiment` to train anew. The table is in Markdown, as
the page has it; it means something where nothing else runs on the machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from forebay.optimize.placing import REPORT_FILE
from forebay.optimize.report import CandidateReport, Report, read_report

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ROOT / ".forebay" / "models" / "minilm"
WEIGHTS = ROOT / ".forebay" / "models" / "sentiment" / "sentiment.safetensors"
OUT = ROOT / ".forebay" / "optimized" / "sentiment"
STEPS = (
    (TEXTS / "tokenizer.json", "examples/minilm/build.py"),
    (TEXTS / "training.csv", "examples/minilm/samples.py"),
    (WEIGHTS, "examples/sentiment/build.py"),
)
"""What is needed, and the script that makes it."""
_NOT_BUILT = ("not_applicable", "missing_library")


def command(*options: str) -> list[str]:
    """The search as the page has it."""
    return [
        str(Path(sys.executable).with_name("forebay")),
        *("optimize", "examples/sentiment/sentiment.py:factory"),
        *("--samples", str(TEXTS / "sentiments.csv"), "--tokenizer", str(TEXTS / "tokenizer.json")),
        *("--metric", "accuracy", "--max-drop", "0.005", "--max-samples", "2000", "--out", str(OUT)),
        *options,
    ]


def table(report: Report) -> Iterator[str]:
    """What was found, in Markdown."""
    yield from ("| recipe | speed-up | accuracy | alone or in a batch | |", "|---|--:|--:|--:|---|")
    for one in report.candidates:
        if one.reason not in _NOT_BUILT:
            yield _row(one, chosen=one.name == report.chosen)
    left_out = [f"`{one.name}` ({one.detail})" for one in report.candidates if one.reason in _NOT_BUILT]
    yield ""
    if left_out:
        yield f"Not built: {', '.join(left_out)}."
    right = report.original.agreement.accuracy if report.original.agreement is not None else None
    yield (
        f"The original: {_share(right)} of {report.samples.held_out} held-out messages. {report.seconds:.0f} s on "
        f"{report.machine.cores} cores of {report.machine.processor}."
    )


def _row(one: CandidateReport, *, chosen: bool) -> str:
    speed = f"{one.speed.speedup:.2f}" if one.speed is not None else ""
    cells = (
        f"`{one.name}`",
        f"**{speed}**" if chosen else speed,
        _share(one.agreement.accuracy if one.agreement is not None else None),
        f"{one.invariance.max_error:.0e}" if one.invariance is not None else "",
        "passed" if one.reason is None else one.reason.replace("_", "-"),
    )
    return f"| {' | '.join(cells)} |"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}".replace("%", " %")


def main() -> None:
    """Command line. Ends as the search does: with 1 where nothing passed, with 2 where it could not begin."""
    if any(word.partition("=")[0] == "--out" for word in sys.argv[1:]):
        raise SystemExit(f"--out: the folder is {OUT}, where docs/optimize-torch.md serves it from")
    for needed, script in STEPS:
        if not needed.is_file() and subprocess.run([sys.executable, script], cwd=ROOT, check=False).returncode:
            raise SystemExit(2)
    ended = subprocess.run(command(*sys.argv[1:]), cwd=ROOT, check=False).returncode
    if ended not in (0, 1):
        raise SystemExit(ended)
    print("", *table(read_report((OUT / REPORT_FILE).read_bytes())), sep="\n")
    raise SystemExit(ended)


if __name__ == "__main__":
    main()
