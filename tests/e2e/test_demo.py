"""`make demo` works as a stranger would use it: the tour ends well, and the lines it prints can be pasted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, str(ROOT / "examples" / "demo.py")]


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process, its output on a pipe; stopped with its server whatever happens."""
    environment = {name: value for name, value in os.environ.items() if name != "ONCE"}
    with subprocess.Popen(
        [*DEMO, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # it lets its server drain, then ends


def read_until(process: subprocess.Popen[str], end: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if end in line:
            return lines
    pytest.fail(f"the demo ended before it printed {end!r}:\n" + "\n".join(lines))


def run_line(line: str) -> str:
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(240)
def test_it_stays_up_and_the_printed_lines_work() -> None:
    with started() as demo:
        lines = read_until(demo, "The server stays up")
        pasted = [line.strip() for line in lines if line.strip().startswith("curl ")]
        answers = [run_line(line) for line in pasted]
        port = int(pasted[0].split("127.0.0.1:")[1].split("/")[0])
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    one_row, two_rows, file_type, metadata, metrics = answers
    assert len(json.loads(one_row)["output"]["embedding"]) == 384
    rows = json.loads(two_rows)
    assert rows["outputs"][0]["shape"] == [2, 384]
    assert set(rows["parameters"]) >= {"batch_rows", "queue_ms", "dispatch_reason", "padding_waste"}
    assert json.loads(file_type)["output"]["label"] == ["python"]
    assert [tensor["name"] for tensor in json.loads(metadata)["inputs"]] == ["text"]
    assert "forebay_" in metrics
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server outlived the demo"


@pytest.mark.timeout(240)
def test_once_shows_answers_batches_and_speed_and_ends_with_0() -> None:
    with started("--once") as demo:
        output, _ = demo.communicate(timeout=200)
    assert demo.returncode == 0, output
    for expected in ("My parcel was due on Monday", "examples/demo.py", "python", "answers/s", "Why no larger"):
        assert expected in output


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    # The demo starts the `forebay` beside its interpreter; here both are stand-ins, and the server's fails.
    stand_in = tmp_path / "forebay"
    stand_in.write_text("#!/bin/sh\necho no model today >&2\nexit 3\n")
    stand_in.chmod(0o755)
    code = (
        "import sys; from examples import demo; sys.executable, sys.argv = sys.argv[1], ['demo', '--once']; demo.main()"
    )
    python = tmp_path / "python"
    python.symlink_to("/bin/true")  # it runs the build, which has nothing to do with this
    done = subprocess.run(
        [sys.executable, "-c", code, str(python)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "ended with code 3" in done.stdout
    assert "no model today" in done.stdout
