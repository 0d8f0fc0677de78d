"""What a distillation leaves behind: a repository that `forebay serve` takes, and the report.

OUT/NAME/1/...                the student, where it passed the gate
OUT/NAME/model.toml           its settings
OUT/report.json, OUT/report.html
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from forebay.core.errors import SetupError
from forebay.distill.html import page
from forebay.distill.report import Report, encoded
from forebay.models.repository import SETTINGS_FILE
from forebay.optimize.placing import PAGE_FILE, REPORT_FILE, UNFINISHED, put_reports, replace, staging

VERSION = "1"


class _Head(msgspec.Struct):
    """The beginning of a report."""

    command: str = ""
    name: str = ""


def check_target(folder: Path, name: str) -> None:
    """Raises `SetupError` where the output folder holds what no distillation of this name has written."""
    if not folder.exists():
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise SetupError(f"--out {folder} cannot be made in {above}; name another folder")
        return
    if not folder.is_dir():
        raise SetupError(f"--out {folder} is a file; name a folder")
    known = {name, REPORT_FILE, PAGE_FILE, ".forebay"} if _is_ours(folder, name) else set()
    strange = sorted(entry.name for entry in folder.iterdir() if entry.name not in known | UNFINISHED)
    if strange:
        raise SetupError(
            f"--out {folder} holds {', '.join(strange[:3])}, which is not of a distillation for {name}; name an "
            "empty or a new folder"
        )


def _is_ours(folder: Path, name: str) -> bool:
    try:
        head = msgspec.json.decode((folder / REPORT_FILE).read_bytes(), type=_Head)
    except (OSError, msgspec.MsgspecError):
        return False
    return (head.command, head.name) == ("distill", name)


def write(report: Report, folder: Path, files: Path) -> None:
    """The reports, and the student where it passed. What an earlier run wrote there is replaced, a student too that is
    now refused. Raises `SetupError`.
    """
    try:
        with staging(folder) as staged:
            student = staged / report.name
            if report.passed:
                shutil.copytree(files, student / VERSION, ignore=shutil.ignore_patterns("__pycache__"))
                (student / SETTINGS_FILE).write_text(_settings(report), encoding="utf-8")
            put_reports(folder, encoded(report), page(report).encode())
            # Only now does any model go that was there.
            replace(folder / report.name, student)
    except OSError as error:
        raise SetupError(f"--out {folder}: {error}; name another folder, or make room") from None


def _settings(report: Report) -> str:
    lines = [f"# Made by forebay distill: {report.student.kind}, learned from {report.teacher.name}"]
    if report.gate.speed is not None and report.gate.teacher_rows_per_s is not None:
        lines.append(f"# {report.gate.speed.speedup:.1f} times the teacher's speed; see {REPORT_FILE}")
    return "\n".join([*lines, f"threads = {report.machine.threads}"]) + "\n"
