"""`forebay tune` as a stranger runs it: real servers, real load, a settings file that serving then takes."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import onnx
import psutil
import pytest
from tests.e2e.server import COMMAND, environment, eventually, gone, model, run_once, serving
from tests.unit.optimize import digits
from tests.unit.optimize.test_search import QUICK, Silent

from forebay.optimize.goals import Asked
from forebay.optimize.output import choose, forms_in
from forebay.optimize.run import Order, optimize

pytestmark = pytest.mark.timeout(300)
LOOSE = ("--slo", "p50=1s", "--inputs", "zeros")
"""Holds at some rate however busy the machine is."""
SHORT = (*LOOSE, "--instances", "1", "--threads", "1", "--batch-caps", "16", "--max-time", "5s")
LONG = (*LOOSE, "--instances", "1,2", "--threads", "1", "--max-time", "10m")


@pytest.fixture
def net(tmp_path: Path, mlp: Path) -> Path:
    """A model in a folder of its own, with settings that somebody made."""
    copy = tmp_path / "net.onnx"
    copy.write_bytes(mlp.read_bytes())
    copy.with_suffix(".toml").write_text('# ours\ninstances = "auto"  # ask Kim\nslo_ms = 3000\nwarm_up_s = 0.1\n')
    return copy


def tuned(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        [*COMMAND, "tune", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def journals(folder: Path) -> list[Path]:
    return list((folder / ".forebay" / "tune").glob("*.json"))


def test_the_choice_is_written_with_its_evidence_and_serving_takes_it(tmp_path: Path, net: Path) -> None:
    done = tuned(tmp_path, str(net), *SHORT, "--plot", "tune.png", "--json", "figures.json")
    assert done.returncode == 0, done.stderr
    text = net.with_suffix(".toml").read_text()
    assert tomllib.loads(text) == {
        "instances": 1,
        "slo_ms": 3000,
        "warm_up_s": 0.1,
        "threads": 1,
        "max_batch_rows": 16,
    }
    assert text.startswith("# ours\ninstances = 1  # ask Kim\n")
    assert "answers/s in time" in text
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures == json.loads((tmp_path / "net.tune.json").read_text())
    assert figures["goodput_per_s"] > 0
    assert figures["rate"] > 0
    assert "1 x 1 threads, at most 16 rows a batch" in done.stdout
    with serving(tmp_path / "work", str(net)) as served:
        assert served.http.get("/v2/models/net/config").json()["max_batch_size"] == 16
        assert len(served.instances()) == 1

    again = tuned(tmp_path, str(net), *SHORT)
    assert "going on with" in again.stderr
    assert net.with_suffix(".toml").read_text() == text, "the same figures say the same"


def grown(folder: Path, before: list[int]) -> bool:
    """Whether more has been measured than there was."""
    return [path.stat().st_size for path in journals(folder)] > before


@contextlib.contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, ended with the block if it has not ended by then."""
    process = subprocess.Popen(
        [*COMMAND, "tune", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_run_that_is_told_to_stop_ends_its_servers_and_goes_on_later(tmp_path: Path, net: Path) -> None:
    said = ""
    for number in (signal.SIGINT, signal.SIGTERM):
        before = [path.stat().st_size for path in journals(tmp_path)]
        with running(tmp_path, str(net), *LONG) as process:
            eventually(functools.partial(grown, tmp_path, before), "it measures", 60)
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "the same command goes on from there" in said
        gone(children)
    assert "going on with" in said
    assert tomllib.loads(net.with_suffix(".toml").read_text())["instances"] == "auto", "nothing is written half-way"


def test_a_run_that_is_killed_leaves_no_server_behind(tmp_path: Path, net: Path) -> None:
    with running(tmp_path, str(net), *LONG) as process:
        children = eventually(lambda: psutil.Process(process.pid).children(recursive=True), "a server is up", 60)
        process.kill()
        process.wait()
        gone(children, 30)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--slo", "fast"), ["'fast'", "such as p99=50ms"]),
        (("--slo", "p99=5s", "--max-time", "soon"), ["'soon'", "90s"]),
        (("--slo", "p99=5s", "--instances", "none"), ["--instances", "'none'"]),
        (("--slo", "p99=5s", "--inputs", "rows.dat"), ["rows.dat", ".jsonl"]),
        (("--slo", "p99=5s", "--plot", "nowhere/tune.png"), ["--plot", "nowhere"]),
        (("--slo", "p99=5s", "--set", "net.instnces=1"), ["instnces", "instances"]),
        (("--slo", "p99=0.001ms", "--instances", "1", "--threads", "1"), ["p99 <= 0.001 ms", "fastest answer"]),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_nothing_is_written(
    tmp_path: Path, net: Path, arguments: tuple[str, ...], said: list[str]
) -> None:
    before = net.with_suffix(".toml").read_text()
    done = tuned(tmp_path, str(net), *arguments)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert all(part in last for part in said), last
    assert net.with_suffix(".toml").read_text() == before
    assert not list(tmp_path.rglob("*-servers"))


def test_a_model_that_does_not_load_is_told_with_its_reason(tmp_path: Path) -> None:
    done = run_once(tmp_path, "tune", *model("loads.py", "Fails"), *SHORT)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "weights.npy is not there" in last
    assert last.count("(model_load_error)") == 1, last


@pytest.mark.full
def test_the_model_of_a_repository_gets_its_settings_where_serving_looks_for_them(tmp_path: Path, mlp: Path) -> None:
    version = tmp_path / "models" / "net" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(mlp.read_bytes())
    (version.parent / "model.toml").write_text("version_policy = { latest = 1 }\n")
    done = tuned(tmp_path, "models/net", *SHORT, "--deadlines")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads((version.parent / "model.toml").read_text()) == {
        "version_policy": {"latest": 1},
        "instances": 1,
        "threads": 1,
        "max_batch_rows": 16,
        "slo_ms": 1000,
    }
    with serving(tmp_path / "work", str(tmp_path / "models")) as served:
        assert served.http.get("/v2/models/net/config").json()["max_batch_size"] == 16


@pytest.mark.full
def test_the_forms_of_a_model_are_compared_and_what_wins_over_the_file_is_told(tmp_path: Path, net: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(net.read_bytes())
    (tmp_path / "forebay.toml").write_text("[models.net]\ninstances = 1\n")
    before = net.with_suffix(".toml").read_text()
    done = tuned(tmp_path, str(net), *SHORT, "--artefact", "other.onnx", "--dry-run", "--json", "figures.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {one["configuration"]["artefact"] for one in figures["results"]} == {"net", "other"}
    assert "forebay.toml:models.net.instances wins over" in done.stdout
    assert net.with_suffix(".toml").read_text() == before


@pytest.mark.full
def test_the_forms_that_optimize_left_are_compared_and_the_best_is_served_from_then_on(tmp_path: Path) -> None:
    onnx.save(digits.mlp(), str(tmp_path / "net.onnx"))
    samples = digits.write_samples(tmp_path / "samples.npz", 60)
    order = Order(
        source=str(tmp_path / "net.onnx"),
        samples=samples,
        out=tmp_path / "out",
        asked=Asked(metric="top1", min_speedup=0.0, effort=QUICK),
        candidates=tuple(f"tests.models.candidates:{name}" for name in ("Slower", "Planted")),
        keep=2,
    )
    report = optimize(order, Silent())
    choose(tmp_path / "out", report, "slower")
    settings = tmp_path / "out" / "net" / "model.toml"
    settings.write_text(settings.read_text() + "warm_up_s = 0.1\n")

    loose = ("--slo", "p50=1s", "--instances", "1", "--threads", "1", "--batch-caps", "16", "--max-time", "8s")
    seen = tuned(tmp_path, "out", *loose, "--dry-run")
    assert seen.returncode == 0, seen.stderr
    assert set(forms_in(tmp_path / "out", report)) == {"slower", "same", "fp32"}
    assert forms_in(tmp_path / "out", report)["slower"] == tmp_path / "out" / "net", "nothing is moved"

    done = tuned(tmp_path, "out", *loose)
    assert "going on with" in done.stderr
    figures = json.loads((tmp_path / "out" / "net" / "tune.json").read_text())
    assert {one["configuration"]["artefact"] for one in figures["results"]} == {"slower", "same", "fp32"}
    assert figures["inputs"] == str(samples)
    best = figures["chosen"]["artefact"]
    assert best != "slower"
    assert f"{best} is served by: forebay serve out" in done.stdout
    forms = forms_in(tmp_path / "out", report)
    assert forms[best] == tmp_path / "out" / "net"
    assert forms["slower"] == tmp_path / "out" / "_artefacts" / "slower"
    assert "warm_up_s = 0.1" in (forms["slower"] / "model.toml").read_text(), "settings go with their form"
    assert tomllib.loads(settings.read_text())["max_batch_rows"] == 16
    with serving(tmp_path / "work", str(tmp_path / "out")) as served:
        assert served.http.get("/v2/models/net/config").json()["max_batch_size"] == 16
        assert list(served.http.get("/v2/models/net").json()["versions"]) == ["1"]

    again = tuned(tmp_path, "out", *loose)
    assert again.returncode == 0, again.stderr
    assert f"measured in {figures['spent_s']:.0f} s" in again.stdout, "it is known, though the forms have moved"
    samples.write_bytes(b"")
    changed = tuned(tmp_path, "out", *loose)
    assert changed.returncode == 2
    assert "samples.npz is not what it was" in changed.stderr
