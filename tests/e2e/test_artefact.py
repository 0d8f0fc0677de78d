"""An artefact of `forebay optimize` is served only where it was compared, and its files are read once for that."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.e2e.server import eventually, quick, run_once, serving
from tests.unit.models.test_artefact import place

from forebay.models.artefact import NOTE_FILE, isa_here

BIG = 48 << 20
"""Bytes of a source: far more than the libraries that an instance reads besides."""


def another_source(folder: Path) -> None:
    (folder / "original.onnx").write_bytes(b"another model")


def another_file(folder: Path) -> None:
    artefact = folder / "made" / "model.onnx"
    artefact.write_bytes(artefact.read_bytes() + b"\0")


def another_processor(folder: Path) -> None:
    noted(folder, isa=[*isa_here(), "a_future_flag"])


def another_format(folder: Path) -> None:
    noted(folder, format=99)


def no_note(folder: Path) -> None:
    (folder / "made" / NOTE_FILE).write_text("{}")


def noted(folder: Path, **changes: Any) -> None:
    note = folder / "made" / NOTE_FILE
    note.write_text(json.dumps(json.loads(note.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_source, ["original.onnx, which has changed since", "run forebay optimize on it again, or delete"]),
        (another_file, ["model.onnx is not the file that", "run forebay optimize again"]),
        (another_processor, ["lacks a_future_flag", "run forebay optimize on this machine, or delete"]),
        (another_format, ["artefact.json has format 99", "run forebay optimize again"]),
        (no_note, ["artefact.json is no note of forebay optimize", "run forebay optimize again"]),
    ],
)
def test_an_artefact_that_does_not_fit_is_refused_with_the_mend(
    tmp_path: Path, change: Callable[[Path], None], said: list[str]
) -> None:
    artefact = place(tmp_path)
    change(tmp_path)
    done = run_once(tmp_path, "serve", str(artefact), "--port", "0")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert last.startswith("error: ")
    assert last.endswith("(model_load_error)")
    assert all(part in last for part in said), last


def test_in_a_repository_it_is_left_out_and_index_load_and_inference_say_why(tmp_path: Path) -> None:
    version = place(tmp_path).parent
    (tmp_path / "models" / "net").mkdir(parents=True)
    another_processor(tmp_path)
    version.rename(tmp_path / "models" / "net" / "1")
    (tmp_path / "models" / "plain" / "1").mkdir(parents=True)
    (tmp_path / "models" / "plain" / "1" / "model.onnx").write_bytes((tmp_path / "original.onnx").read_bytes())
    with serving(tmp_path / "work", *quick(str(tmp_path / "models"))) as served:
        index = {one["name"]: one for one in served.http.post("/v2/repository/index").json()}
        assert index["plain"]["state"] == "READY"
        assert index["net"]["state"] == "UNAVAILABLE"
        assert "lacks a_future_flag" in index["net"]["reason"]
        loaded = served.http.post("/v2/repository/models/net/load")
        assert (loaded.status_code, loaded.json()["code"]) == (500, "model_load_error")
        asked = served.infer("net", [[0.5] * 64])
        assert (asked.status_code, asked.json()["code"]) == (404, "model_not_found")
        assert asked.json()["error"] == f"model 'net' is not loaded: {loaded.json()['error']}"
        described = served.http.get("/v2/models/net/versions/1")
        assert (described.status_code, described.json()) == (404, asked.json())
        ready = served.http.get("/v2/models/net/ready")
        assert (ready.status_code, ready.json()["error"]) == (404, "model 'net' is not loaded")
        unknown = served.infer("other", [[0.5] * 64])
        assert unknown.json()["error"] == "there is no model 'other'"


def read_bytes(process: psutil.Process) -> int:
    """Bytes that a process has read so far, from the page cache too."""
    found: int = process.io_counters().read_chars
    return found


@pytest.mark.skipif(not hasattr(psutil.Process, "io_counters"), reason="only some systems count what is read")
def test_files_are_read_for_their_digests_once_and_not_by_each_instance(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights.bin").write_bytes(os.urandom(1 << 20) * (BIG >> 20))
    artefact = place(tmp_path, source=source)
    time.sleep(0.2)  # what was written just now may be written again unseen
    with serving(tmp_path / "work", *quick(str(artefact), instances=2)) as served:
        server = psutil.Process(served.process.pid)
        assert BIG < read_bytes(server) < 2 * BIG
        first, second = served.instances()
        assert max(read_bytes(first), read_bytes(second)) < BIG
        before = read_bytes(server)
        first.kill()
        first.wait(10)
        eventually(lambda: len(served.instances()) == 2 and served.ready(), "another one has taken its place")
        eventually(lambda: served.metric("forebay_instances_ready", "model") >= 2, "it is up")
        assert max(map(read_bytes, served.instances())) < BIG
        assert read_bytes(server) - before < BIG
        assert served.infer("model", [[0.5] * 64]).status_code == 200

        (source / "weights.bin").write_bytes(b"other weights")
        served.instances()[0].kill()
        eventually(lambda: served.logged("has changed since"), "a file that has changed is refused all the same")
        assert served.infer("model", [[0.5] * 64]).status_code == 200, "the other instance goes on"
