"""The how-tos of `forebay optimize` and `forebay distill` as a stranger follows them: every command of every page, as
written, in order.

They leave their models in `.forebay/`, as they do at the stranger's. Without a package index the tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.server import ROOT, environment, serving
from tests.unit.optimize.pages import PAGES, commands

BY_CHANCE = ("optimize-xgboost",)
"""Pages whose search may end with 1: that the original is the best."""

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]


def run(command: str, port: int | None) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = command.replace("localhost:8000", f"localhost:{port}")
    return subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env={**environment(), "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_does_what_it_is_there_for(page: str) -> None:
    with ExitStack() as servers:
        port: int | None = None
        for command in commands(page):
            if command.startswith('pip install ".['):
                continue  # that is what runs here
            if command.startswith("forebay serve "):
                served = servers.enter_context(serving(ROOT, *command.split()[2:]))
                port = served.port
                continue
            ended = run(command, port)
            if ended.returncode and (command.startswith("pip ") or "npm" in ended.stderr):
                pytest.skip(f"{command}: {ended.stderr}")
            fine = (0, 1) if command.startswith("forebay optimize") and page in BY_CHANCE else (0,)
            assert ended.returncode in fine, f"{command}\n{ended.stdout}{ended.stderr}"
            if command.startswith("curl "):
                assert '"error"' not in ended.stdout, f"{command}\n{ended.stdout}"
                assert ended.stdout.startswith("{"), f"{command}\n{ended.stdout}"
