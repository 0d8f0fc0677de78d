"""`forebay optimize`: a model and samples in, a faster form that was proven to answer the same out."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from forebay.cli.stopping import INTERRUPTED, ended_by_signals
from forebay.core.errors import SetupError
from forebay.core.settings_sources import load_settings
from forebay.models.source import LoadOptions
from forebay.optimize.candidates.registry import REFERENCES
from forebay.optimize.gate import described
from forebay.optimize.goals import Asked, Effort
from forebay.optimize.heads import MEANINGS
from forebay.optimize.output import OTHERS, chosen_of, encoded
from forebay.optimize.placing import PAGE_FILE, REPORT_FILE
from forebay.optimize.report import METRICS, ORIGINAL, CandidateReport, Goals, Metric, Report, SourceReport, megabytes
from forebay.optimize.run import Order
from forebay.optimize.run import optimize as run_search
from forebay.optimize.samples import LEAST
from forebay.optimize.texts import MOST_TOKENS

EXIT_NOTHING = 1
"""No candidate passed the gate; the report is written all the same."""
_PIPED_COLUMNS = 160
_SHOWN_FILES = 8
_NOT_BUILT = ("not_applicable", "missing_library")
_TRUST = ("allow_pickle", "trusted_types")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)")


Source = Annotated[
    str,
    typer.Argument(
        help="An .onnx file, a Hugging Face folder, FILE.py:FACTORY of a torch module, or a model file of XGBoost, "
        "LightGBM or scikit-learn."
    ),
]
SamplesFile = Annotated[
    Path, typer.Option(help="Inputs as they are in use: .npz, .jsonl, .csv or .txt; with labels if there are any.")
]
Out = Annotated[Path, typer.Option(help="Folder for the artefact and the report.")]
MetricName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.py:FUNCTION",
        help="What is compared: cosine, top1, max_error, accuracy, or a function of your own of predictions and "
        "labels, the higher the better. Default: accuracy with labels, else what suits the output.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        help="Largest loss: 1 minus mean cosine or share of same classes, an error, lost accuracy, or how much lower "
        "your own metric may be."
    ),
]
Slo = Annotated[str | None, typer.Option(help="Only batch sizes within this time count, such as 50ms.")]
RequireInvariance = Annotated[
    bool,
    typer.Option(
        "--require-batch-invariance/--allow-batch-variance",
        help="Must a row's answer be the same in any company? Cached and deterministic models need that.",
    ),
]
BatchTolerance = Annotated[
    float, typer.Option(help="Difference that counts as the same, as a share of the largest value.")
]
MinSpeedup = Annotated[float, typer.Option(help="Least speed-up that is worth a change.")]
HeadName = Annotated[
    Literal["auto", "argmax", "threshold", "ridge"],
    typer.Option(
        help="From output to label: the largest value, 1 from a half on, or a linear head fitted once on the original."
    ),
]
OutputName = Annotated[str | None, typer.Option(help="The output that is compared.")]
TokenizerFile = Annotated[
    Path | None, typer.Option(help="tokenizer.json for texts. Default: the one beside the source.")
]
MaxTokens = Annotated[int, typer.Option(help="Longer texts are cut.")]
MaxSamples = Annotated[int, typer.Option(help="Samples that are used, chosen by the seed.")]
HeldOut = Annotated[float, typer.Option(help="Share of samples that recipes never see and the gate judges by.")]
Seed = Annotated[int, typer.Option(help="Seed of the split and of all batches.")]
Threads = Annotated[int, typer.Option(help="Threads of one instance, as in serve.")]
Rounds = Annotated[int, typer.Option(help="Timed rounds, original and candidate in turns.")]
Only = Annotated[list[str] | None, typer.Option("--candidate", help="Try only this; may be repeated.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py:CLASS",
        help="A recipe of your own, or module:Class; see the docs. May be repeated.",
    ),
]
Keep = Annotated[
    int, typer.Option(help="Leave so many of those that pass; with the original, for forebay tune OUT to choose among.")
]
DependsOn = Annotated[
    list[Path] | None,
    typer.Option(
        "--depends-on",
        metavar="FILE",
        help="A file that the source was made from: the artefact is refused once it changes. May be repeated. Those "
        "that a torch factory reads are found where they can be seen.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME.KEY=VALUE",
        help="allow_pickle or trusted_types of a scikit-learn file, as in serve; may be repeated.",
    ),
]
Name = Annotated[str | None, typer.Option(help="The model's name. Default: the file's or folder's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def optimize(
    source: Source,
    samples: SamplesFile,
    out: Out = Path("optimized"),
    metric: MetricName = None,
    max_drop: MaxDrop = None,
    slo: Slo = None,
    require_invariance: RequireInvariance = True,
    batch_tolerance: BatchTolerance = 1e-4,
    min_speedup: MinSpeedup = 1.03,
    head: HeadName = "auto",
    output: OutputName = None,
    tokenizer: TokenizerFile = None,
    max_tokens: MaxTokens = MOST_TOKENS,
    max_samples: MaxSamples = 512,
    held_out: HeldOut = 0.5,
    seed: Seed = 0,
    threads: Threads = 1,
    rounds: Rounds = 5,
    only: Only = None,
    plugins: Plugins = None,
    keep: Keep = 1,
    depends_on: DependsOn = None,
    sets: Sets = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """Find a faster form of a model that answers the same, with proof.

    Recipes (8-bit weights, static and dynamic 8 bits, fusions, ...) are built
    and measured one by one, each in a process of its own, against the original:
    answers on held-out samples, answers alone and in batches, NaN, speed,
    memory. The fastest one that passes is written to OUT as a folder for
    `forebay serve OUT`, with report.json and report.html.

    Exit code 0: there is a model to serve. 1: no candidate passed. 2: the
    search could not begin. 70: a fault of Forebay's own. 130: stopped.

    Examples:

      forebay optimize minilm.onnx --samples texts.txt --metric cosine --max-drop 0.001

      forebay optimize minilm.onnx --samples labelled.csv --metric accuracy --max-drop 0.01 --allow-batch-variance

      forebay optimize digits.onnx --samples digits.npz --out faster && forebay serve faster

      forebay optimize minilm.onnx --samples texts.txt --out faster --keep 3 && forebay tune faster --slo p99=50ms
    """
    _not_negative(max_drop=max_drop, batch_tolerance=batch_tolerance, min_speedup=min_speedup)
    _at_least(1, threads=threads, rounds=rounds, max_tokens=max_tokens, keep=keep)
    _at_least(LEAST, max_samples=max_samples)
    _at_least(0, seed=seed)
    if not 0.0 < held_out < 1.0:
        raise SetupError(f"--held-out {held_out}: write a share between 0 and 1")
    known, function = parse_metric(metric)
    asked = Asked(
        metric=known,
        function=function,
        max_drop=max_drop,
        batch_invariance=require_invariance,
        batch_tolerance=batch_tolerance,
        min_speedup=min_speedup,
        slo_ms=None if slo is None else parse_slo(slo),
        head=head,
        output=output,
        threads=threads,
        effort=Effort(rounds=rounds, rounds_rejected=min(rounds, 2)),
    )
    order = Order(
        source=source,
        samples=samples,
        out=out,
        asked=asked,
        name=name,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        max_samples=max_samples,
        held_out=held_out,
        seed=seed,
        candidates=(*REFERENCES, *(plugins or ())),
        only=tuple(only or ()),
        keep=keep,
        depends_on=tuple(depends_on or ()),
        trust=_trust(sets or (), name or Path(source).stem),
    )
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPED_COLUMNS)
    try:
        with ended_by_signals(), LiveTable(console) as table:
            report = run_search(order, table)
    except KeyboardInterrupt:
        console.print(f"stopped; nothing was written to {escape(str(out))}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(encoded(report), nl=False)
    _print(console, report, out)
    if report.chosen is None:
        raise typer.Exit(EXIT_NOTHING)


def parse_metric(text: str | None) -> tuple[Metric | None, str]:
    """The metric, and the function where it is one of the user's own. Raises `SetupError`."""
    if text is None:
        return None, ""
    if ":" in text:
        return "own", text
    for name in METRICS:
        if text == name:
            return name, ""
    raise SetupError(f"--metric {text}: there is {', '.join(METRICS)}, or your own: module:function, file.py:function")


def parse_slo(text: str) -> float:
    """`50ms` or `0.05s` in milliseconds. Raises `SetupError`."""
    match = _DURATION.fullmatch(text.strip())
    value = float(match[1]) * (1e3 if match[2] == "s" else 1.0) if match else 0.0
    if value <= 0:
        raise SetupError(f"--slo {text}: write a time above 0, such as 50ms or 0.1s")
    return value


def _trust(sets: Sequence[str], name: str) -> LoadOptions:
    """Of `--set`, what says what the model's file may make. Raises `SetupError` for everything else."""
    loaded = load_settings(config_file=None, environ={}, flags={}, sets=sets, folder=None)
    for text in sets:
        target = text.partition("=")[0]
        if target.strip().rpartition(".")[2] not in _TRUST:
            raise SetupError(
                f"--set {target}: forebay optimize takes {' and '.join(_TRUST)} alone; settings for serving stand "
                "beside the model"
            )
    loaded.check_models([name])
    settings = loaded.model(name, {}, None)
    return LoadOptions(allow_pickle=settings.allow_pickle, trusted_types=settings.trusted_types or ())


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise SetupError(f"--{name.replace('_', '-')} {value}: must be {least} or more")


def _not_negative(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 <= value < math.inf:
            raise SetupError(f"--{name.replace('_', '-')} {value:g}: must be a number from 0 on")


class LiveTable:
    """The search as it goes: one line a candidate. Where there is no terminal, each line once it is known."""

    def __init__(self, console: Console) -> None:
        self._console, self._done, self._began = console, list[CandidateReport](), time.monotonic()
        self._now: tuple[str, str, float] | None = None
        self._spinner = Spinner("dots")
        self._live = Live(console=console, refresh_per_second=8, transient=True, get_renderable=self._shown)

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def refresh(self) -> None:
        """Draw now, not at the next tick."""
        self._live.refresh()

    def begins(self, name: str, meaning: str) -> None:
        """See `Watcher.begins`."""
        self._now = (name, meaning, time.monotonic())

    def says(self, name: str, text: str) -> None:
        """See `Watcher.says`."""
        began = self._now[2] if self._now else time.monotonic()
        self._now = (name, text, began)

    def ends(self, report: CandidateReport) -> None:
        """See `Watcher.ends`."""
        self._done.append(report)
        self._now = None
        if not self._console.is_terminal:
            self._console.print(_line(report), soft_wrap=True, markup=False)

    def _shown(self) -> RenderableType:
        parts: list[RenderableType] = [_table(self._done, None)]
        if self._now is not None:
            name, text, began = self._now
            now = time.monotonic()
            self._spinner.update(text=Text(f"{name}: {text}, {now - began:.0f} s of {now - self._began:.0f} s"))
            parts.append(self._spinner)
        return Group(*parts)


def _line(report: CandidateReport) -> str:
    if report.name == ORIGINAL:
        return f"{report.name}, the original, is measured"
    verdict = "passed" if report.reason is None else f"{report.reason}: {report.detail}"
    ratio = f", {report.speed.speedup:.2f} times as fast" if report.speed is not None else ""
    return f"{report.name}{ratio}, {verdict}"


def _table(reports: list[CandidateReport], goals: Goals | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("candidate", "speed-up", "agreement", "in batch", "MB"):
        table.add_column(column, justify="left" if column in ("candidate", "agreement") else "right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for one in reports:
        if one.reason in _NOT_BUILT:
            continue  # told in a line of its own
        verdict = "[green]passed[/]" if one.reason is None else f"[red]{one.reason}[/]"
        table.add_row(
            one.name,
            f"{one.speed.speedup:.2f}x" if one.speed else "",
            _agreement(one, goals),
            f"{one.invariance.max_error:.1e}" if one.invariance else "",
            megabytes(one.size_bytes),
            "" if one.name == ORIGINAL else verdict,
        )
    return table


def _agreement(one: CandidateReport, goals: Goals | None) -> str:
    found = one.agreement
    if found is None:
        return ""
    if goals is not None:
        return described(goals, found).removeprefix("mean ") if found.finite else "NaN"
    if found.mean_cosine is not None:
        return f"cosine {found.mean_cosine:.5f}"
    return "" if found.top1 is None else f"same {found.top1:.2%}"


def _dependencies(source: SourceReport) -> str:
    """What makes the artefact out of date, where that is more than the source's own file or folder."""
    name, files = Path(source.path).name, [one.path for one in source.files]
    if not files:
        alone = f"it depends on {name} alone, no other file was seen to be read; name those that were with --depends-on"
        return alone if source.kind == "torch" else ""
    more = f" and {len(files) - _SHOWN_FILES} more, see {REPORT_FILE}" if len(files) > _SHOWN_FILES else ""
    return f"it depends on {name} and on {', '.join(files[:_SHOWN_FILES])}{more}"


def _print(console: Console, report: Report, out: Path) -> None:
    console.print(_table([report.original, *report.candidates], report.goals))
    for one in report.candidates:
        if one.reason is not None and console.is_terminal:
            console.print(f"{one.name}: {one.detail}", markup=False, soft_wrap=True, style="dim")
    samples, goals, where = report.samples, report.goals, escape(str(out))
    share = 1.0 / samples.held_out
    if goals.metric in ("top1", "accuracy") and share > goals.max_drop > 0:
        console.print(
            f"[yellow]note[/]: one of {samples.held_out} held-out samples is {share:.2%}, more than the drop of "
            f"{goals.max_drop:.2%} that is allowed; give more samples"
        )
    if samples.head:
        told = f"labels are judged by --head {samples.head}: {MEANINGS[samples.head]}, of output {report.output!r}"
        console.print(told, markup=False, soft_wrap=True)
    if samples.duplicates:
        console.print(f"{samples.duplicates} samples are the same as others and were left out", soft_wrap=True)
    chosen = chosen_of(report)
    if chosen is None:
        console.print(
            f"no candidate passed the gate; the original stays the best. See {where}/{PAGE_FILE}", soft_wrap=True
        )
        return
    console.print(
        f"[bold]{chosen.name}[/] is in {where} ({report.seconds:.0f} s); serve it with: forebay serve {where}",
        soft_wrap=True,
    )
    if told := _dependencies(report.source):
        console.print(told, markup=False, soft_wrap=True)
    if (out / OTHERS).is_dir():
        console.print(f"other forms are kept; choose under load: forebay tune {where} --slo p99=50ms", soft_wrap=True)
    console.print(f"the evidence: {where}/{PAGE_FILE}, {where}/{REPORT_FILE}", soft_wrap=True)
