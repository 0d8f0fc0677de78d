"""One search from its arguments to its folder: the composition of everything here."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from forebay.core.errors import SetupError
from forebay.models.artefact import isa_here, origin_digest
from forebay.models.repository import is_name
from forebay.models.source import LoadOptions, model_files, open_source
from forebay.optimize import gate, output
from forebay.optimize.builder import open_candidate
from forebay.optimize.candidates.registry import REFERENCES
from forebay.optimize.goals import Asked
from forebay.optimize.metric import check_own, open_metric
from forebay.optimize.output import Form
from forebay.optimize.report import ORIGINAL, CandidateReport, MachineReport, Report, SampleReport, SourceReport
from forebay.optimize.samples import FORMS, Split, length_of, read_samples, split
from forebay.optimize.search import Search, Watcher
from forebay.optimize.sources.open import open_original
from forebay.optimize.sources.port import NO_OPTIONS, Original, missing
from forebay.optimize.texts import MOST_TOKENS, open_tokenizer, tokenizer_beside
from forebay.runtimes.port import load_runtime

_LIBRARIES = (
    "forebay",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "onnx",
    "onnxscript",
    "torch",
    "openvino",
    "nncf",
    "xgboost-cpu",
    "lightgbm",
    "scikit-learn",
)


_TEXTS = (".txt", ".csv", ".jsonl")
"""Suffixes of samples that may hold texts."""


@dataclass(frozen=True)
class Order:
    """A search as it was asked for. `candidates`: recipes besides or in place of the known ones, `module:Class` or
    `file.py:Class`.
    """

    source: str
    samples: Path
    out: Path
    asked: Asked = field(default_factory=Asked)
    name: str | None = None
    tokenizer: Path | None = None
    max_tokens: int = MOST_TOKENS
    max_samples: int = 512
    held_out: float = 0.5
    seed: int = 0
    candidates: Sequence[str] = REFERENCES
    only: Sequence[str] = ()
    """Names of candidates to try; empty: all."""
    keep: int = 1
    """So many of those that pass are left, the fastest ones; with more than one the original, too."""
    depends_on: Sequence[Path] = ()
    """Files that the source depends on, besides those that a factory is seen to read."""
    trust: LoadOptions = NO_OPTIONS
    """What a file of scikit-learn may make."""


def optimize(order: Order, watcher: Watcher) -> Report:
    """Search, judge, write. Raises `SetupError` where the search cannot begin or its result not be written."""
    references = _chosen(order)
    _check_files(order)
    started, at = time.monotonic(), datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="forebay-optimize-") as folder:
        work = Path(folder, "work")
        work.mkdir()
        watcher.says(ORIGINAL, "opening the source")
        original = _opened(order, work)
        output.check_target(order.out, original.name)
        if original.path in order.out.resolve().parents or original.path == order.out.resolve():
            raise SetupError(
                f"--out {order.out} lies in the source, {original.path}, and would change its digest; name a folder "
                "outside"
            )
        tokenizer = order.tokenizer or tokenizer_beside(original.path)
        parts = _samples(order, original, tokenizer)
        search = Search(original, parts, order.asked, work, watcher)
        try:
            candidates = search.run(references)
            kept = _movable(search, candidates, work)[: order.keep]
        finally:
            search.close()
        _check_unchanged(original)
        best = kept[0].name if kept else None
        report = Report(
            started_at=at.isoformat(timespec="seconds"),
            seconds=time.monotonic() - started,
            source=SourceReport(
                name=original.name,
                path=str(original.path),
                kind=original.kind,
                sha256=original.sha256,
                note=original.note,
                files=original.files,
                refuses=search.refuses,
            ),
            samples=_sample_report(order, parts, search.head.name if search.head else "", tokenizer),
            goals=search.goals,
            machine=machine_report(order.asked.threads),
            output=search.output,
            original=search.original,
            candidates=candidates,
            chosen=best or (None if original.servable else search.original.name),
        )
        bound = {one.name: one.isa_bound for one in map(open_candidate, references)}
        forms = [Form(one, search.folder_of(one), bound[one.name]) for one in kept]
        if (kept and order.keep > 1) or (not kept and not original.servable):
            forms.append(Form(search.original, _copied(original, work / "original"), isa_bound=False))
        output.write(report, order.out, forms)
        return report


def _check_unchanged(original: Original) -> None:
    """Raises `SetupError` where the source is not what it was when it was opened."""
    if origin_digest(original.path) != original.sha256:
        raise SetupError(f"{original.path} was written to while it was optimised; do it again")
    folder = original.path.parent
    for one in original.files:
        if one.difference(folder):
            raise SetupError(
                f"{one.place(folder)}, which {original.path} depends on, was written to while it was optimised; do it "
                "again"
            )


def _movable(search: Search, candidates: Sequence[CandidateReport], work: Path) -> list[CandidateReport]:
    """Those that passed and answer as before from another place, while the folder of the search is away; the fastest
    first.
    """
    for one in gate.ranked(candidates):
        moved, away = work.with_name("moved"), work.with_name("away")
        shutil.copytree(search.folder_of(one), moved)
        work.rename(away)
        try:
            search.check_moved(one, str(moved / one.model), away / search.rows.name)
        finally:
            away.rename(work)
            shutil.rmtree(moved)
    return gate.ranked(candidates)


def _copied(original: Original, folder: Path) -> Path:
    """The original's files in a folder of their own."""
    path = Path(original.model)
    for file in model_files(open_source(original.model)):
        if file.is_file():
            target = folder / file.relative_to(path.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return folder


def _check_files(order: Order) -> None:
    """What can be told before anything is opened or exported. Raises `SetupError`."""
    if order.asked.function:
        check_own(order.asked.function, order.asked.max_drop, labelled=True)  # of labels nothing is known yet
        open_metric(order.asked.function)
    texts = order.samples.suffix.lower() in _TEXTS
    if not order.samples.is_file():
        raise SetupError(f"--samples {order.samples}: there is no such file; what is taken: {FORMS}")
    for file in order.depends_on:
        if not file.is_file():
            wrong = "is a folder; name its files" if file.is_dir() else "there is no such file"
            raise SetupError(f"--depends-on {file}: {wrong}")
    if order.tokenizer is not None and not order.tokenizer.is_file():
        raise SetupError(f"--tokenizer {order.tokenizer}: there is no such file; name a tokenizer.json")
    if order.tokenizer is not None and not texts:
        raise SetupError(
            f"--tokenizer {order.tokenizer} is for texts, and --samples {order.samples} holds arrays; leave it away"
        )


def _chosen(order: Order) -> list[str]:
    """References of the candidates to try. Raises `SetupError` for a name that there is not."""
    names: dict[str, str] = {}
    for reference in order.candidates:
        try:
            name = open_candidate(reference).name
        except (Exception, SystemExit) as error:  # whatever the file of a recipe does when it is read
            raise SetupError(
                f"--plugin {reference} cannot be opened: {type(error).__name__}: {error}; write module:Class or "
                f"file.py:Class (looked in {Path.cwd()} too)"
            ) from None
        if name in names or name == ORIGINAL or not is_name(name):
            raise SetupError(
                f"--plugin {reference}: a recipe cannot be called {name!r}; it needs a name of its own, of letters, "
                "digits and '-'"
            )
        names[name] = reference
    unknown = [name for name in order.only if name not in names]
    if unknown:
        raise SetupError(f"--candidate {unknown[0]}: there is no such recipe; there are {', '.join(names)}")
    return [reference for name, reference in names.items() if not order.only or name in order.only]


def _opened(order: Order, work: Path) -> Original:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise missing("forebay optimize", "optimize", error) from None
    (work / "source").mkdir()
    return open_original(order.source, order.name, work / "source", trust=order.trust, depends_on=order.depends_on)


def _samples(order: Order, original: Original, tokenizer: Path | None) -> Split:
    try:
        runtime = load_runtime(open_source(original.model), "cpu", order.asked.threads, original.trust)
    except SetupError as error:
        raise SetupError(
            f"{error.message}; it has to load as it is: forebay serve {order.source}", code=error.code
        ) from None
    signature = runtime.signature
    del runtime
    if not signature.batched:
        raise SetupError(
            f"{original.path}: its inputs and outputs share no leading variable axis, so that it cannot be batched; "
            "export it with a variable first axis"
        )
    tokenize = None
    if tokenizer is not None and order.samples.suffix.lower() in _TEXTS:
        tokenize = open_tokenizer(tokenizer, order.max_tokens)
    samples = read_samples(order.samples, signature, tokenize)
    return split(samples, order.held_out, order.max_samples, order.seed, str(order.samples))


def _sample_report(order: Order, parts: Split, head: str, tokenizer: Path | None) -> SampleReport:
    lengths = [length_of(row) for row in parts.held_out.rows]
    return SampleReport(
        path=str(order.samples.resolve()),
        sha256=parts.held_out.sha256,
        calibration=len(parts.calibration),
        held_out=len(parts.held_out),
        labelled=bool(parts.held_out.labels),
        seed=parts.seed,
        head=head,
        duplicates=parts.duplicates,
        shortest=min(lengths),
        longest=max(lengths),
        tokenizer=str(tokenizer.resolve()) if tokenizer is not None and parts.held_out.texts else "",
        max_tokens=order.max_tokens,
    )


def machine_report(threads: int) -> MachineReport:
    """What is measured on, and with which libraries."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return MachineReport(
        processor=_processor(), isa=isa_here(), cores=os.cpu_count() or 1, threads=threads, versions=versions
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
