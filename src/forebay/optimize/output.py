"""What a search leaves behind: a repository that `forebay serve` takes, and the report."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec

from forebay.core.errors import SetupError
from forebay.models.artefact import NOTE_FILE, ArtefactNote
from forebay.models.repository import SETTINGS_FILE
from forebay.models.source import open_source
from forebay.optimize.html import page
from forebay.optimize.report import CandidateReport, Report

REPORT_FILE, PAGE_FILE = "report.json", "report.html"
_DEVICES_OR_PRECISION = re.compile(
    r"^[ \t]*(?:devices[ \t]*=[ \t]*(?:\[[^\]]*\])?|inference_precision[ \t]*=)[^\n]*\n?", re.MULTILINE
)
"""Settings of the source that are the artefact's to say."""


def check_target(folder: Path, name: str) -> None:
    """Raises `SetupError` where the output folder holds what no search has written."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SetupError(f"--out {folder} is a file; name a folder")
    others = [entry.name for entry in folder.iterdir() if entry.name not in (name, REPORT_FILE, PAGE_FILE)]
    if others or (any(folder.iterdir()) and not (folder / REPORT_FILE).is_file()):
        held = ", ".join(sorted(others)[:3]) or name
        raise SetupError(f"--out {folder} holds {held}, which is not of this search; name an empty or a new folder")


def write(report: Report, folder: Path, artefact: Path | None, *, isa_bound: bool) -> None:
    """`report.json`, `report.html`, and with `artefact` (a folder of model files) `NAME/1/...` and `NAME/model.toml`.

    What an earlier search wrote there is replaced, an artefact too that is now refused. Raises `SetupError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / report.source.name
        if model.exists():
            shutil.rmtree(model)
        if artefact is not None:
            _place(report, model, artefact, isa_bound=isa_bound)
        (folder / REPORT_FILE).write_bytes(encoded(report))
        (folder / PAGE_FILE).write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise SetupError(f"--out {folder}: {error}") from None


def encoded(report: Report) -> bytes:
    """`report.json`, for people and programs."""
    return msgspec.json.format(msgspec.json.encode(report)) + b"\n"


def chosen_of(report: Report) -> CandidateReport | None:
    """The candidate that is served; the original where it is only exported."""
    return next((one for one in [report.original, *report.candidates] if one.name == report.chosen), None)


def _place(report: Report, model: Path, artefact: Path, *, isa_bound: bool) -> None:
    chosen = chosen_of(report)
    assert chosen is not None
    version = model / "1"
    model.mkdir(parents=True)
    shutil.copytree(artefact, version, ignore=shutil.ignore_patterns(".*"))
    file = Path(chosen.model.rpartition(":")[0] or chosen.model).name
    note = ArtefactNote(
        candidate=chosen.name,
        model=file,
        model_sha256=chosen.model_sha256,
        source=report.source.path,
        source_sha256=report.source.sha256,
        isa=report.machine.isa if isa_bound else (),
        versions=report.machine.versions,
        served_with=chosen.served_with,
    )
    (version / NOTE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(note)) + b"\n")
    (model / SETTINGS_FILE).write_text(_settings(report, chosen), encoding="utf-8")


def _settings(report: Report, chosen: CandidateReport) -> str:
    """`model.toml`: what the artefact was measured with, and what the source's own settings file says of the rest, or
    the threads that were measured with.
    """
    lines = [f"# Made by forebay optimize: {chosen.name} of {report.source.path}"]
    if chosen.speed is not None:
        lines.append(f"# {chosen.speed.speedup:.2f} times the original's speed; see ../{REPORT_FILE}")
    source = Path(report.source.path)
    sidecar = open_source(str(source)).sidecar if source.suffix.lower() == ".onnx" and source.is_file() else None
    own = sidecar.read_text(encoding="utf-8-sig").rstrip() if sidecar is not None else ""
    own = _DEVICES_OR_PRECISION.sub("", own)
    needed = chosen.served_with
    if needed.device != "cpu":
        lines.append(f'devices = ["{needed.device}"]')
    if needed.inference_precision != "fp32":
        lines.append(f'inference_precision = "{needed.inference_precision}"')
    return "\n".join([*lines, own or f"threads = {report.machine.threads}"]) + "\n"
