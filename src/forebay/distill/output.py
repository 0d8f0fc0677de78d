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

REPORT_FILE, PAGE_FILE = "report.json", "report.html"
VERSION = "1"
_STAGED, _REPLACED = ".staged", ".replaced"


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
    known = {_STAGED, _REPLACED}  # of a run that was interrupted while it wrote
    if _is_ours(folder, name):
        known |= {name, REPORT_FILE, PAGE_FILE, ".forebay"}
    known |= {f"{_STAGED}.{file}" for file in (REPORT_FILE, PAGE_FILE)}
    strange = sorted(entry.name for entry in folder.iterdir() if entry.name not in known)
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
    staged = folder / _STAGED
    target = folder / report.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        if report.passed:
            shutil.copytree(files, staged / VERSION, ignore=shutil.ignore_patterns("__pycache__"))
            (staged / SETTINGS_FILE).write_text(_settings(report), encoding="utf-8")
        # The report first: by it the next run knows that what lies here is its own, wherever this one is interrupted.
        for file, content in ((REPORT_FILE, encoded(report)), (PAGE_FILE, page(report).encode())):
            (folder / f"{_STAGED}.{file}").write_bytes(content)
            (folder / f"{_STAGED}.{file}").replace(folder / file)
        # Only now does any model go that was there.
        old = folder / _REPLACED
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        if staged.exists():
            staged.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise SetupError(f"--out {folder}: {error}; name another folder, or make room") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _settings(report: Report) -> str:
    lines = [f"# Made by forebay distill: {report.student.kind}, learned from {report.teacher.name}"]
    if report.gate.speed is not None and report.gate.teacher_rows_per_s is not None:
        lines.append(f"# {report.gate.speed.speedup:.1f} times the teacher's speed; see {REPORT_FILE}")
    return "\n".join([*lines, f"threads = {report.machine.threads}"]) + "\n"
