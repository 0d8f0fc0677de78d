"""A load that hangs is ended: at the start it fails, later it is tried again, and nobody who can be answered waits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.unit.engine.started import MODEL, Answers, eventually, plan_of, running, tiny, y

from forebay.core.errors import SetupError

HANGING = MODEL.replace(
    "    def predict(self, x):",
    """    def load(self, device):
        with open(os.path.join(HERE, "loads"), "a") as file:
            file.write(".")
        while os.path.exists(os.path.join(HERE, "hang")):
            time.sleep(0.01)

    def predict(self, x):""",
)


async def test_a_first_load_that_hangs_fails_with_the_settings_name(tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    with pytest.raises(SetupError, match=r"load_timeout_s, 0\.5 s.*tiny\.py") as raised:
        async with running(plan_of(tiny(tmp_path, text=HANGING), tmp_path, load_timeout_s=0.5)):
            pass
    assert raised.value.code == "model_load_error"


async def test_a_replacement_that_hangs_is_replaced(tmp_path: Path) -> None:
    plan = plan_of(tiny(tmp_path, text=HANGING), tmp_path, load_timeout_s=1.0)
    async with running(plan) as engine:
        (tmp_path / "hang").touch()
        os.kill(engine.supervisor.instances[0].pid, signal.SIGKILL)
        await eventually(lambda: (tmp_path / "loads").read_text() == "...")
        (tmp_path / "hang").unlink()
        answers = Answers(engine)
        item = answers.submit(1.0)
        await answers.all(item)
        assert y(item) == [[2.0]]


async def test_one_that_has_loaded_is_left_alone(tmp_path: Path) -> None:
    async with running(plan_of(tiny(tmp_path), tmp_path, load_timeout_s=1.0)) as engine:
        pid = engine.supervisor.instances[0].pid
        await eventually(lambda: not engine.supervisor._limits)
        assert engine.supervisor.instances[0].pid == pid
