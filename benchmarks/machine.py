"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

OURS = (
    "forebay",
    "uvicorn",
    "uvloop",
    "httptools",
    "fastapi",
    "msgspec",
    "numpy",
    "onnxruntime",
    "tokenizers",
    "redis",
)
PEERS = (
    "mosec",
    "litserve",
    "orjson",
    "uvicorn",
    "uvloop",
    "httptools",
    "numpy",
    "onnxruntime",
    "tokenizers",
    "celery",
    "arq",
)


def describe(peer_python: Path | None) -> dict[str, Any]:
    """Date, CPU, cores, kernel, Python, package versions, load before the start."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "versions": {name: found for name in OURS if (found := _version(name))},
        "peer_versions": {} if peer_python is None else _peer_versions(peer_python),
    }


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The CPU's name, from /proc where there is one."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _peer_versions(python: Path) -> dict[str, str]:
    code = f"from importlib.metadata import version\nfor name in {PEERS!r}:\n    print(name, version(name))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return dict(line.split() for line in done.stdout.splitlines())
