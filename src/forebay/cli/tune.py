"""`forebay tune`: instances, threads and batch cap measured under an SLO, and written beside the model."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from forebay import __version__
from forebay.cli.flags import shown_value
from forebay.cli.stopping import INTERRUPTED, ended_by_signals
from forebay.cli.tune_progress import TuneProgress
from forebay.core.errors import SetupError
from forebay.core.settings_sources import LoadedSettings, load_settings
from forebay.engine.costs_file import cpu_name
from forebay.optimize.texts import MOST_TOKENS
from forebay.tune import report
from forebay.tune.configuration import Configuration, grid, parse_counts
from forebay.tune.contender import Outcome
from forebay.tune.forms import Forms, forms_of
from forebay.tune.inputs import Tokenizer
from forebay.tune.journal import Journal, JournaledWorld
from forebay.tune.machine import Machine
from forebay.tune.search import search
from forebay.tune.settings_file import Value, edited
from forebay.tune.slo import Slo, parse_slo
from forebay.tune.subject import Subject, open_subject

_PIPED_COLUMNS: Final = 160
_START = (
    "import sys; from forebay.engine.child import die_with_parent; die_with_parent(int(sys.argv.pop(1))); "
    "from forebay.cli.main import main; main()"
)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)?")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def tune(
    model: Annotated[
        str,
        typer.Argument(
            help="As for forebay serve, the folder of a repository's model, or what forebay optimize wrote."
        ),
    ],
    slo: Annotated[str, typer.Option(help="What must hold, such as p99=50ms or p95=1.5s.")],
    artefacts: Annotated[
        list[str] | None,
        typer.Option("--artefact", metavar="PATH", help="Another form of the model to try; may be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name, where it is not that of its file.")] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            help="What to send: FILE (.npz, .jsonl, .txt, .csv), examples, zeros or random. "
            "Default: the samples of forebay optimize, else examples."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="tokenizer.json for texts where the model takes tokens. Default: the one beside the model."),
    ] = None,
    instances: Annotated[str | None, typer.Option(help="Numbers of instances to try, such as 1,2.")] = None,
    threads: Annotated[str | None, typer.Option(help="Threads of each instance to try, such as 1,2.")] = None,
    batch_caps: Annotated[str | None, typer.Option(help="Values of max_batch_rows to try. Default: 8,32,256.")] = None,
    max_time: Annotated[
        str,
        typer.Option(help="Longest time of measuring, such as 90s or 5m; at least until a first rate holds."),
    ] = "5m",
    deadlines: Annotated[
        bool, typer.Option("--deadlines", help="Requests carry the SLO as their timeout; slo_ms is written too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The settings file to write. Default: the one beside the model.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write no settings.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on where the last run stopped, or forget it.")
    ] = True,
    plot: Annotated[Path | None, typer.Option(help="Write goodput and latency as a picture.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here too.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings file. Default: ./forebay.toml, if there.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME.KEY=VALUE", help="A model's setting; may be repeated.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for what was measured. Default: as for serve.")] = None,
) -> None:
    """Find the instances, threads and batch cap that answer most requests in time.

    Each configuration is served for real on this machine and gets Poisson
    arrivals. The best goes into model.toml with the evidence as comments; all
    else in the file stays. An interrupted run goes on where it stopped.

    Of a folder that forebay optimize wrote with --keep, every form that it
    holds takes part, and the best one is served from then on.

    Examples:

      forebay tune mlp.onnx --slo p99=20ms

      forebay tune minilm.py:MiniLM --slo p99=500ms --inputs texts.txt --max-time 10m --plot tune.png

      forebay tune resnet.onnx --slo p95=100ms --artefact resnet.int8.onnx --batch-caps 8,16,32

      forebay tune models/mlp --slo p99=20ms --instances 1,2 --threads 1 --dry-run

      forebay tune optimized --slo p99=50ms
    """
    wanted, most_s = parse_slo(slo), parse_time(max_time)
    numbers = parse_counts("--instances", instances), parse_counts("--threads", threads)
    caps = parse_counts("--batch-caps", batch_caps)
    # What cannot be written is told before the work, not after.
    for flag, file in (("--plot", plot), ("--json", json_file), ("--out", out)):
        if file is not None and (file.is_dir() or not file.resolve().parent.is_dir()):
            raise SetupError(f"{flag} {file}: there is no folder {file.resolve().parent}, or it is a folder itself")
    if plot is not None:
        report.check_plot(plot)
    flags = {} if data_dir is None else {"data_dir": str(data_dir)}
    loaded = load_settings(config_file=config_file, environ=os.environ, flags=flags, sets=sets or ())
    forms = forms_of(model)
    if forms is not None and inputs is None:
        inputs = forms.samples()
    opens = _Opens(loaded, inputs, None if tokenizer is None else Tokenizer(str(tokenizer), MOST_TOKENS))
    subjects = opens.all(model, forms, artefacts or (), name)
    configurations = grid(list(subjects), *numbers, caps, _cores())
    journal = _journal(loaded, subjects, configurations, wanted, inputs, deadlines)
    if not dry_run:
        # Before it takes minutes: whether what comes out can be written.
        for file in {out} if out is not None else {subject.settings_file for subject in subjects.values()}:
            _edited(file, _values(configurations[0], wanted, deadlines=deadlines), ())
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if resume and (count := journal.load()):
        console.print(f"going on with {count} measurements of {journal.path}; --fresh forgets them")
    try:
        outcome = _measure(configurations, subjects, wanted, most_s, journal, console, deadlines)
    except KeyboardInterrupt:
        console.print(f"stopped; what was measured is in {journal.path}: the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    facts = _facts(next(iter(subjects.values())), deadlines)
    written = None if dry_run else _write(outcome, facts, subjects[outcome.chosen.artefact], forms, out)
    _tell(outcome, subjects, model, forms, out, written)
    if json_file is not None:
        _put(json_file, report.document(outcome, facts))
    if plot is not None:
        report.plot(plot, outcome)


def parse_time(text: str) -> float:
    """`90s`, `5m`, `1h`, `90` as seconds. Raises `SetupError`."""
    match = _TIME.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise SetupError(f"--max-time {text!r}: write a time above 0 in s, m or h, such as 90s or 5m")
    return float(match[1]) * _UNITS_S[match[2]]


class _Opens:
    """Opens the forms of a model, all in the same way."""

    def __init__(self, loaded: LoadedSettings, inputs: str | None, tokenizer: Tokenizer | None) -> None:
        self._loaded, self._inputs, self._tokenizer = loaded, inputs, tokenizer

    def all(self, model: str, forms: Forms | None, artefacts: Sequence[str], name: str | None) -> dict[str, Subject]:
        """By label: the candidate's name in what `forebay optimize` wrote, else the file's stem, or the whole path
        where two have the same. Raises `SetupError`."""
        subjects: dict[str, Subject] = {}
        if forms is not None:
            if name not in (None, forms.name):
                raise SetupError(f"--name {name}: the model in {model} is called {forms.name}; leave it away")
            name, self._tokenizer = forms.name, self._tokenizer or forms.tokenizer
            for label, folder in forms.models.items():
                subjects[label] = self._one(str(folder), name)
        for path in artefacts if forms is not None else [model, *artefacts]:
            subject = self._one(path, name)
            name = name or subject.artefact.source.name  # all are forms of the first one
            stem = Path(path.rpartition(":")[2] if ".py:" in path else path).stem
            label = stem if stem not in subjects else path
            if subject.artefact.source in [other.artefact.source for other in subjects.values()]:
                raise SetupError(f"--artefact {path} is given twice, or is MODEL itself; leave it away")
            subjects[label] = subject
        return subjects

    def _one(self, path: str, name: str | None) -> Subject:
        return open_subject(path, name, self._loaded, self._inputs, shown_value, self._tokenizer)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _journal(
    loaded: LoadedSettings,
    subjects: dict[str, Subject],
    configurations: Sequence[Configuration],
    slo: Slo,
    inputs: str | None,
    deadlines: bool,
) -> Journal:
    """Where the measurements of this search are kept: all that they depend on is its key."""
    first = next(iter(subjects.values())).artefact
    key = {
        "version": __version__,
        "machine": [cpu_name(), _cores()],
        "slo": str(slo),
        "deadlines": deadlines,
        "configurations": [str(one) for one in configurations],
        "inputs": [first.kind, _digest(inputs)],
        # Not where they are: the form that is chosen moves.
        "artefacts": {
            label: [one.artefact.digest, _tokens(one.artefact.tokenizer), *one.artefact.arguments[1:]]
            for label, one in subjects.items()
        },
    }
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
    return Journal(loaded.settings.data_dir.resolve() / "tune" / f"{first.source.name}-{digest}.json", key)


def _facts(subject: Subject, deadlines: bool) -> report.Facts:
    return report.Facts(
        model=subject.artefact.source.name,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        cpu=cpu_name(),
        cores=_cores(),
        version=__version__,
        inputs=subject.artefact.kind,
        with_deadline=deadlines,
    )


def _measure(
    configurations: Sequence[Configuration],
    subjects: dict[str, Subject],
    slo: Slo,
    most_s: float,
    journal: Journal,
    console: Console,
    deadlines: bool,
) -> Outcome:
    artefacts = {label: subject.artefact for label, subject in subjects.items()}
    serve = (sys.executable, "-c", _START, str(os.getpid()), "serve")
    # What the servers have learned of costs stays there while the search can be gone on with.
    folder = journal.path.with_name(f"{journal.path.stem}-servers")
    machine = Machine(artefacts, slo, serve, folder, with_deadline=deadlines)
    world = JournaledWorld(machine, journal, time.monotonic)
    try:
        with ended_by_signals(), TuneProgress(console, world, slo, most_s, time.monotonic) as progress:
            try:
                outcome = search(configurations, slo, progress, most_s, progress.found)
            finally:
                machine.close()
    except SetupError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _tell(
    outcome: Outcome,
    subjects: dict[str, Subject],
    model: str,
    forms: Forms | None,
    out: Path | None,
    written: Path | None,
) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_COLUMNS
    console.print(report.table(outcome))
    console.print()
    chosen = outcome.chosen
    form = f"{chosen.artefact}, " if len(subjects) > 1 else ""
    what = f"{form}{chosen.instances} x {chosen.threads} threads, at most {chosen.max_batch_rows} rows a batch"
    console.print(
        f"[bold]{what}[/bold]: {outcome.goodput_per_s:,.1f} answers/s within {outcome.slo} "
        f"at {outcome.rate:,.1f} requests/s{' (unconfirmed)' if outcome.unconfirmed else ''}; "
        f"measured in {outcome.spent_s:.0f} s",
        soft_wrap=True,
    )
    if outcome.unconfirmed:
        console.print(
            f"unconfirmed: {outcome.unconfirmed}; a longer --max-time, or another run, may tell", soft_wrap=True
        )
    if outcome.generator_limited:
        console.print("the load generator was the limit: this configuration may do more than was asked of it")
    subject = subjects[chosen.artefact]
    if forms is not None and chosen.artefact in forms.models:
        if written is not None and out is None:
            console.print(f"{chosen.artefact} is served by: forebay serve {model}", soft_wrap=True)
        else:
            console.print(f"{chosen.artefact} is in {forms.models[chosen.artefact]}", soft_wrap=True)
    elif subject is not next(iter(subjects.values())):
        source = subject.artefact.source
        console.print(f"the best form of {model} is {source.path}: serve it with --name {source.name}", soft_wrap=True)
    if out is None and subject.overridden:
        console.print(f"{', '.join(subject.overridden)} wins over what is written beside the model", soft_wrap=True)
    for note in outcome.notes:
        console.print(note, soft_wrap=True)
    if written is not None:
        console.print(f"written to {written}", soft_wrap=True)


def _write(outcome: Outcome, facts: report.Facts, subject: Subject, forms: Forms | None, out: Path | None) -> Path:
    """The settings file, which is returned, and beside it all figures. The form that was chosen is served from now on,
    unless the settings go elsewhere.
    """
    file = (out if out is not None else subject.settings_file).resolve()
    figures = "tune.json" if file.stem == "model" else f"{file.stem}.tune.json"
    chosen = outcome.chosen
    values = _values(chosen, outcome.slo, deadlines=facts.with_deadline)
    text = _edited(file, values, report.evidence(outcome, facts, figures))
    if forms is not None and out is None and chosen.artefact in forms.models:
        file = forms.put_first(chosen.artefact).resolve() / file.name
    _put(file, text.encode())
    _put(file.with_name(figures), report.document(outcome, facts))
    return file


def _values(chosen: Configuration, slo: Slo, *, deadlines: bool) -> dict[str, Value]:
    """The settings that are written."""
    values: dict[str, Value] = {
        "instances": chosen.instances,
        "threads": chosen.threads,
        "max_batch_rows": chosen.max_batch_rows,
    }
    return values | ({"slo_ms": slo.bound_ms} if deadlines else {})


def _edited(file: Path, values: Mapping[str, Value], evidence: Sequence[str]) -> str:
    """The file's text with these settings in it. Raises `SetupError`."""
    try:
        # As bytes: line ends stay what they are.
        before = file.read_bytes().decode() if file.exists() else ""
        mark = "\ufeff" if before.startswith("\ufeff") else ""
        return mark + edited(before.removeprefix(mark), values, evidence)
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{file}: cannot be read: {error}") from None
    except SetupError as error:
        raise SetupError(f"{file}: {error.message}") from None


def _put(path: Path, content: bytes) -> None:
    """In one step, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SetupError(f"cannot write {path}: {error.strerror or error}") from None


def _digest(inputs: str | None) -> str:
    path = Path(inputs or "")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _tokens(tokenizer: Tokenizer | None) -> list[object] | None:
    return None if tokenizer is None else [_digest(tokenizer.file), tokenizer.most]
