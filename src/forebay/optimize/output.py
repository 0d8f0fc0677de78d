"""What a search leaves behind: a repository that `forebay serve` takes, other forms of the model, and the report.

    OUT/NAME/1/...                     the form that is served, with its note, artefact.json
    OUT/NAME/model.toml                its settings
    OUT/_artefacts/CANDIDATE/1/...     other forms that passed, and the original: `forebay tune` may choose them
    OUT/report.json, OUT/report.html

A repository passes over names that begin with `_`.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from forebay.core.errors import SetupError
from forebay.models.artefact import NOTE_FILE, ArtefactNote, artefact_digest, read_note
from forebay.models.kinds import runtime_of
from forebay.models.repository import SETTINGS_FILE
from forebay.models.source import ModelSource, open_source
from forebay.optimize.html import page
from forebay.optimize.placing import PAGE_FILE, REPORT_FILE, UNFINISHED, put_reports, replace, staging
from forebay.optimize.report import CandidateReport, Report, is_of_others, read_report

_DEVICES_OR_PRECISION = re.compile(
    r"^[ \t]*(?:devices[ \t]*=[ \t]*(?:\[[^\]]*\])?|inference_precision[ \t]*=)[^\n]*\n?", re.MULTILINE
)
"""Settings of the source that are the artefact's to say."""
OTHERS = "_artefacts"
VERSION = "1"
TUNED_FILE = "tune.json"
"""What `forebay tune` leaves beside the settings."""
_FILES_IN_SETTINGS = ("labels", "semantic_calibration", "cascade", "variants")


@dataclass(frozen=True)
class Form:
    """A form of the model that is to be left: what was measured of it, the folder of its files, and whether its answers
    may depend on the processor.
    """

    report: CandidateReport
    files: Path
    isa_bound: bool


def check_target(folder: Path, name: str) -> None:
    """Raises `SetupError` where the output folder holds what neither a search nor `forebay tune` has written."""
    if not folder.exists():
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise SetupError(f"--out {folder} cannot be made in {above}; name another folder")
        return
    if not folder.is_dir():
        raise SetupError(f"--out {folder} is a file; name a folder")
    known = {name, OTHERS, REPORT_FILE, PAGE_FILE, ".forebay"} if (folder / REPORT_FILE).is_file() else set()
    strange = [entry for entry in folder.iterdir() if entry.name not in known | UNFINISHED]
    models = [folder / name, *((folder / OTHERS).iterdir() if (folder / OTHERS).is_dir() else ())]
    for model in (model for model in models if model.exists()):
        strange += _strange_in(model)
    if strange:
        held = ", ".join(sorted(str(entry.relative_to(folder)) for entry in strange)[:3])
        raise SetupError(
            f"--out {folder} holds {held}, which is not of a search for {name}; name an empty or a new folder"
        )


def _strange_in(model: Path) -> list[Path]:
    if not model.is_dir():
        return [model]
    settings = model / SETTINGS_FILE
    usual = {VERSION, SETTINGS_FILE, TUNED_FILE, *(_named_in(settings) if settings.is_file() else ())}
    strange = [entry for entry in model.iterdir() if entry.name not in usual]
    made = (model / VERSION / NOTE_FILE).is_file() or not (model / VERSION).exists()
    return strange if made else [*strange, model / VERSION]


def write(report: Report, folder: Path, forms: Sequence[Form]) -> None:
    """The reports and the forms: the first one is served, the others may be chosen by `forebay tune`; none where
    nothing may be served. What an earlier search wrote there is replaced, an artefact too that is now refused.

    Raises `SetupError`.
    """
    name = report.source.name
    try:
        with staging(folder) as staged:
            for place, form in enumerate(forms):
                _place(report, staged / (OTHERS if place else "") / (form.report.name if place else name), form)
            put_reports(folder, encoded(report), page(report).encode())
            # Only now does any model go that was there.
            for model in (name, OTHERS):
                replace(folder / model, staged / model)
    except OSError as error:
        raise SetupError(f"--out {folder}: {error}; name another folder, or make room") from None


def encoded(report: Report) -> bytes:
    """`report.json`, for people and programs."""
    return msgspec.json.format(msgspec.json.encode(report)) + b"\n"


def chosen_of(report: Report) -> CandidateReport | None:
    """The candidate that is served; the original where it is only exported."""
    return next((one for one in [report.original, *report.candidates] if one.name == report.chosen), None)


def report_in(folder: Path) -> Report | None:
    """The report of the search that wrote a folder; None where none did, or another command. Raises `SetupError` for
    one that cannot be read.
    """
    file = folder / REPORT_FILE
    try:
        content = file.read_bytes()
        return None if is_of_others(content) else read_report(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} cannot be read: {error}; run forebay optimize again") from None


def forms_in(folder: Path, report: Report) -> dict[str, Path]:
    """The folders of the forms that are there, by the name of their candidate; the served one first.

    Raises `SetupError` for a note that cannot be read.
    """
    others = folder / OTHERS
    models = [folder / report.source.name, *(sorted(others.iterdir()) if others.is_dir() else ())]
    found: dict[str, Path] = {}
    for model in models:
        note = read_note(model / VERSION)
        if note is not None:
            found.setdefault(note.candidate, model)
    return found


def choose(folder: Path, report: Report, candidate: str) -> Path:
    """Put this form in the place of the one that is served, and that one among the others. Returns where it is now.

    Raises `SetupError`.
    """
    forms = forms_in(folder, report)
    served = folder / report.source.name
    try:
        if forms[candidate] != served:
            before = next((name for name, model in forms.items() if model == served), None)
            if before is not None:
                served.rename(folder / OTHERS / before)
            forms[candidate].rename(served)
    except OSError as error:
        raise SetupError(f"{folder}: {error}; nothing else is served yet") from None
    return served


def _place(report: Report, model: Path, form: Form) -> None:
    version = model / VERSION
    model.mkdir(parents=True)
    shutil.copytree(form.files, version, ignore=shutil.ignore_patterns("__pycache__"))
    one = form.report
    head, class_name = _class_in(one.model)
    file = version / Path(head).name
    is_python = ModelSource(report.source.name, "python", str(file), class_name) if class_name else None
    note = ArtefactNote(
        candidate=one.name,
        model=file.name,
        model_sha256=artefact_digest(is_python) if is_python is not None else one.model_sha256,
        source=report.source.path,
        source_sha256=report.source.sha256,
        source_files=report.source.files,
        isa=report.machine.isa if form.isa_bound else (),
        versions=report.machine.versions,
        served_with=one.served_with,
        refuses=report.source.refuses,
    )
    (version / NOTE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(note)) + b"\n")
    (model / SETTINGS_FILE).write_text(_settings(report, one), encoding="utf-8")
    sidecar = _sidecar(report)
    for name in _named_in(sidecar) if sidecar is not None else ():
        assert sidecar is not None
        shutil.copyfile(sidecar.parent / name, model / name)


def _class_in(model: str) -> tuple[str, str]:
    """File and class of a MODEL argument; no class for a file of another kind."""
    head, _, class_name = model.rpartition(":")
    return (head, class_name) if head.endswith(".py") else (model, "")


def _settings(report: Report, form: CandidateReport) -> str:
    """`model.toml`: what the form was measured with, and what the source's own settings file says of the rest, or the
    threads that were measured with.
    """
    lines = [f"# Made by forebay optimize: {form.name} of {report.source.path}"]
    if form is not report.original and form.speed is not None:
        lines.append(f"# {form.speed.speedup:.2f} times the original's speed; see {REPORT_FILE}")
    sidecar = _sidecar(report)
    own = sidecar.read_text(encoding="utf-8-sig").rstrip() if sidecar is not None else ""
    own = _DEVICES_OR_PRECISION.sub("", own)
    if class_name := _class_in(form.model)[1]:
        lines.append(f'class = "{class_name}"')
    needed = form.served_with
    if needed.device != "cpu":
        lines.append(f'devices = ["{needed.device}"]')
    if needed.inference_precision != "fp32":
        lines.append(f'inference_precision = "{needed.inference_precision}"')
    return "\n".join([*lines, own or f"threads = {report.machine.threads}"]) + "\n"


def _sidecar(report: Report) -> Path | None:
    """The source's own settings file."""
    source = Path(report.source.path)
    return open_source(str(source)).sidecar if source.is_file() and runtime_of(source) is not None else None


def _named_in(settings: Path) -> list[str]:
    """Files beside a settings file that it names: they have to go where it goes."""
    try:
        table = tomllib.loads(settings.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return []
    names = [table[key] for key in _FILES_IN_SETTINGS if isinstance(table.get(key), str)]
    return [name for name in names if Path(name).name == name and (settings.parent / name).is_file()]
