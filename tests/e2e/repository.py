"""Model repositories for tests: a model that answers its own version number, written in one step."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from tests.e2e.server import Served, body, quick

_MODEL = '''
import os
import threading
import time

import numpy as np

import forebay

VERSION = {version}
FOLDER = os.environ.get("FOREBAY_TEST_FOLDER", ".")


class Told(forebay.Model):
    """y = x, and which version answered. A row waits as many milliseconds as it says, above 10."""

    inputs = {{"x": ("FP32", [1])}}
    outputs = {{"y": ("FP32", [1]), "version": ("FP32", [1])}}

    def load(self, device):
        {load}

    def predict(self, x):
        if x.max() >= 10:
            time.sleep(float(x.max()) / 1000)
        return x, np.full_like(x, VERSION)
'''
RAISES = 'raise ValueError("no weights here")'
HANGS = "threading.Event().wait()"
WAITS = """open(os.path.join(FOLDER, "loading"), "w").close()
        while os.path.exists(os.path.join(FOLDER, "wait")):
            time.sleep(0.01)"""
_numbers = itertools.count()


def put(repository: Path, version: int, answers: int | None = None, load: str = "pass", name: str = "told") -> Path:
    """Write one version, or write it anew. `answers`: what it says that it is. Returns its folder."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f".{next(_numbers)}"
    written.write_text(_MODEL.format(version=answers or version, load=load))
    written.replace(folder / "model.py")
    return folder


def settings(repository: Path, text: str, name: str = "told") -> None:
    """Write `model.toml`."""
    (repository / name).mkdir(parents=True, exist_ok=True)
    (repository / name / "model.toml").write_text(text)


def drop(repository: Path, version: int, name: str = "told") -> None:
    """Take a version away, in one step as far as the server can see."""
    gone = repository / f".gone{next(_numbers)}"
    os.replace(repository / name / str(version), gone)
    shutil.rmtree(gone)


def arguments(repository: Path, *more: str, watch_s: float = 0.0) -> list[str]:
    """What `serving` takes: this repository, one instance each, a short warm-up."""
    watch = ["--watch", "--watch-interval-s", f"{watch_s:g}"] if watch_s else []
    return [*quick(str(repository)), *watch, *more]


def told(answer: httpx.Response) -> int:
    """Which version has answered: the one that the protocol names, that each row names, that is 200."""
    assert answer.status_code == 200, answer.text
    document = answer.json()
    outputs = {output["name"]: output["data"] for output in document["outputs"]}
    (version,) = set(outputs["version"])
    return int(version)


def ask(served: Served, rows: Sequence[Any] = (1.0,), version: int | None = None, name: str = "told") -> int:
    """One request; which version has answered."""
    where = f"/v2/models/{name}" + (f"/versions/{version}" if version else "")
    return told(served.http.post(f"{where}/infer", json=body(list(rows))))


def control(served: Served, what: str, name: str = "told", **parameters: Any) -> httpx.Response:
    """`load` or `unload`."""
    sent = {"parameters": parameters} if parameters else {}
    return served.http.post(f"/v2/repository/models/{name}/{what}", json=sent)


def index(served: Served, name: str = "told") -> dict[str, tuple[str, str]]:
    """Version to state and reason."""
    entries = served.http.post("/v2/repository/index", json={}).json()
    return {entry["version"]: (entry["state"], entry["reason"]) for entry in entries if entry["name"] == name}


def states(served: Served, name: str = "told") -> dict[str, str]:
    """Version to state."""
    return {version: state for version, (state, _) in index(served, name).items()}


def resident_bytes(served: Served) -> int:
    """Memory of the whole process tree; a process that ends meanwhile counts as nothing."""
    import psutil

    total = 0
    for process in (psutil.Process(served.process.pid), *served.instances()):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += int(process.memory_info().rss)
    return total
