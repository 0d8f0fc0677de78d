"""An SQS that refuses, or whose library is missing. What it carries: `test_rabbitmq.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.contract.brokers.moto_servers import MotoServer
from tests.e2e.roles import house
from tests.e2e.server import model, quick, run_once

PAUSE = model("faulty.py", "Pause")


@pytest.mark.parametrize("role", ["serve", "web", "worker"])
def test_a_broker_that_refuses_ends_the_start(tmp_path: Path, role: str) -> None:
    with MotoServer(INITIAL_NO_AUTH_ACTION_COUNT="0") as server, house(tmp_path / "house") as found:
        models = quick(*PAUSE) if role != "web" else []
        broker = f"sqs://us-east-1/forebay?endpoint={server.endpoint}"
        who = {"AWS_ACCESS_KEY_ID": "AKIANOBODY", "AWS_SECRET_ACCESS_KEY": "s3cret"}
        done = run_once(tmp_path, role, *models, *found.where, "--broker", broker, **who)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, said
    assert "does not know these credentials" in said
    assert "s3cret" not in said
    assert "Traceback" not in said


def test_without_its_library_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "aiobotocore.py").write_text("raise ModuleNotFoundError('No module named aiobotocore')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_once(tmp_path, "web", "--store", "redis://localhost", "--broker", "sqs://eu-west-1/", PYTHONPATH=path)
    assert done.returncode == 2
    assert "pip install 'forebay[sqs]'" in " ".join(done.stderr.split())
