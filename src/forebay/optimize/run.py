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
from forebay.models.source import LoadOptions, open_source
from forebay.optimize import gate, output
from forebay.optimize.builder import open_candidate
from forebay.optimize.candidates.registry import REFERENCES
from forebay.optimize.goals import Asked
from forebay.optimize.report import MachineReport, Report, SampleReport, SourceReport
from forebay.optimize.samples import Split, read_samples, split
from forebay.optimize.search import Search, Watcher
from forebay.optimize.sources.open import open_original
from forebay.optimize.sources.port import Original, missing
from forebay.optimize.texts import open_tokenizer, tokenizer_beside
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


@dataclass(frozen=True)
class Order:
    """A search as it was asked for. `candidates`: `module:Class` of recipes besides or in place of the known ones."""

    source: str
    samples: Path
    out: Path
    asked: Asked = field(default_factory=Asked)
    name: str | None = None
    tokenizer: Path | None = None
    max_tokens: int = 256
    max_samples: int = 512
    held_out: float = 0.5
    seed: int = 0
    candidates: Sequence[str] = REFERENCES
    only: Sequence[str] = ()
    """Names of candidates to try; empty: all."""


def optimize(order: Order, watcher: Watcher) -> Report:
    """Search, judge, write. Raises `SetupError` where the search cannot begin or its result not be written."""
    references = _chosen(order)
    started, at = time.monotonic(), datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="forebay-optimize-") as folder:
        work = Path(folder)
        original = _opened(order, work)
        output.check_target(order.out, original.name)
        parts = _samples(order, original)
        search = Search(original, parts, order.asked, work, watcher)
        try:
            candidates = search.run(references)
        finally:
            search.close()
        best = gate.choose(candidates)
        chosen = best.name if best else (None if original.servable else search.original.name)
        report = Report(
            started_at=at.isoformat(timespec="seconds"),
            seconds=time.monotonic() - started,
            source=SourceReport(
                name=original.name,
                path=str(original.path),
                kind=original.kind,
                sha256=origin_digest(original.path),
                note=original.note,
            ),
            samples=_sample_report(order, parts, search.head.name if search.head else ""),
            goals=search.goals,
            machine=_machine(order.asked.threads),
            output=search.output,
            original=search.original,
            candidates=candidates,
            chosen=chosen,
        )
        bound = {one.name: one.isa_bound for one in map(open_candidate, references)}
        artefact = search.folder_of(best) if best else None
        if best is None and chosen is not None:
            artefact = work / "export"
            artefact.mkdir()
            shutil.copyfile(original.model, artefact / Path(original.model).name)
        output.write(report, order.out, artefact, isa_bound=bound.get(chosen or "", False))
        return report


def _chosen(order: Order) -> list[str]:
    """References of the candidates to try. Raises `SetupError` for a name that there is not."""
    try:
        names = {open_candidate(reference).name: reference for reference in order.candidates}
    except (ImportError, AttributeError, TypeError) as error:
        raise SetupError(f"a candidate cannot be opened: {error}; write module:Class") from None
    unknown = [name for name in order.only if name not in names]
    if unknown:
        raise SetupError(f"there is no candidate {', '.join(unknown)}; there are {', '.join(names)}")
    return [reference for name, reference in names.items() if not order.only or name in order.only]


def _opened(order: Order, work: Path) -> Original:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise missing("forebay optimize", "optimize", error) from None
    (work / "source").mkdir()
    return open_original(order.source, order.name, work / "source")


def _samples(order: Order, original: Original) -> Split:
    runtime = load_runtime(open_source(original.model), "cpu", order.asked.threads, LoadOptions())
    signature = runtime.signature
    del runtime
    if not signature.batched:
        raise SetupError(
            f"{original.path}: its inputs and outputs share no leading variable axis, so that it cannot be batched; "
            "export it with a variable first axis"
        )
    tokenizer = order.tokenizer or tokenizer_beside(original.path)
    tokenize = None
    if tokenizer is not None and order.samples.suffix.lower() in (".txt", ".csv", ".jsonl"):
        tokenize = open_tokenizer(tokenizer, order.max_tokens)
    samples = read_samples(order.samples, signature, tokenize)
    return split(samples, order.held_out, order.max_samples, order.seed)


def _sample_report(order: Order, parts: Split, head: str) -> SampleReport:
    return SampleReport(
        path=str(order.samples),
        sha256=parts.held_out.sha256,
        calibration=len(parts.calibration),
        held_out=len(parts.held_out),
        labelled=bool(parts.held_out.labels),
        seed=parts.seed,
        head=head,
    )


def _machine(threads: int) -> MachineReport:
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
