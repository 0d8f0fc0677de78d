"""The peers' own virtual environment, so that no peer decides what Forebay runs on, nor the other way round."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")
SAME_VERSION = ("onnxruntime", "numpy", "tokenizers", "xgboost-cpu")


def ensure(folder: Path, console: Console, file: Path = REQUIREMENTS) -> Path:
    """The Python of the peers' environment at `folder`, made or brought up to date with `file` where needed."""
    wanted = requirements(file)
    mark = folder / "requirements.sha256"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    python = folder / "bin" / "python"
    if python.exists() and mark.exists() and mark.read_text() == digest:
        return python
    with console.status(f"installing the peers into {folder} (once, about half a minute)"):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        listed = folder / "requirements.txt"
        listed.write_text(wanted)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(listed)],
            check=True,
        )
    mark.write_text(digest)
    return python


def requirements(file: Path = REQUIREMENTS) -> str:
    """The requirements file, with the versions that must be Forebay's own filled in."""
    lines = file.read_text().splitlines()
    return "\n".join(f"{line}=={version(line)}" if line in SAME_VERSION else line for line in lines) + "\n"
