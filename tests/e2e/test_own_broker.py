"""A broker that another package brings, as docs/own-broker.md says."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.e2e.roles import announced, ended, house, submit
from tests.e2e.server import ROOT, model, quick, run_once, serving

PAUSE = model("faulty.py", "Pause")
EXAMPLE = ROOT / "examples" / "own_broker"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the example's package is installed as pip would: its module, and what it says of itself."""
    folder = tmp_path / "site"
    about = folder / "forebay_sqlite-0.1.dist-info"
    about.mkdir(parents=True)
    shutil.copy(EXAMPLE / "forebay_sqlite.py", folder)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: forebay-sqlite\nVersion: 0.1\n")
    [line] = [line for line in (EXAMPLE / "pyproject.toml").read_text().splitlines() if line.startswith("sqlite-queue")]
    (about / "entry_points.txt").write_text("[forebay.brokers]\n" + line.replace('"', "") + "\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_one_process_with_a_broker_of_ones_own(tmp_path: Path, installed: Path) -> None:
    queue = tmp_path / "jobs.db"
    with serving(tmp_path, *quick(*PAUSE), "--broker", f"sqlite-queue://{queue}") as served:
        ids = [submit(served, "pause", [float(number)]) for number in range(20)]
        served.wait_logged("jobs are carried by SQLite")
        assert [ended(served, id)["output"]["output"] for id in ids] == [{"y": [float(number)]} for number in range(20)]
    with sqlite3.connect(queue) as database:
        assert database.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    database.close()


def test_a_worker_takes_what_waits_after_another_was_killed(tmp_path: Path, installed: Path) -> None:
    broker = ("--broker", f"sqlite-queue://{tmp_path / 'jobs.db'}")
    with house(tmp_path) as built:
        web = built.web("web", *broker)
        web.wait_listening()
        first = built.worker("first", *PAUSE, *broker)
        announced(web, "pause")
        assert ended(web, submit(web, "pause", [1.0]))["status"] == "succeeded"
        first.process.kill()
        waiting = [submit(web, "pause", [float(number)]) for number in range(5)]
        built.worker("second", *PAUSE, *broker)
        assert {ended(web, id)["status"] for id in waiting} == {"succeeded"}


def test_a_scheme_that_no_package_names_is_said_with_those_that_are_there(tmp_path: Path, installed: Path) -> None:
    done = run_once(tmp_path, "serve", *PAUSE, "--broker", "pigeons://:s3cret@loft/")
    assert done.returncode == 2
    assert "broker 'pigeons://" in done.stderr
    assert "s3cret" not in done.stderr
    assert "nor one of those installed here (sqlite-queue)" in " ".join(done.stderr.split())


def test_a_package_that_cannot_be_loaded_is_named(tmp_path: Path, installed: Path) -> None:
    (installed / "forebay_sqlite.py").write_text("import pigeons\n")
    done = run_once(tmp_path, "serve", *PAUSE, "--broker", "sqlite-queue:///tmp/jobs.db")
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert "forebay_sqlite:SqliteBroker, which a package here names for it, cannot be loaded: No module named" in told
