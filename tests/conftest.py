"""What holds for every test."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

# Before any library of trees is imported: OpenMP's threads spin while they wait, which costs minutes on shared cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job has SIGINT ignored, and what it starts inherits that: Ctrl-C could not be tested there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _log_is_left_as_found() -> Iterator[None]:
    """A test that leaves our log turned off makes another one fail, long after and on some machines only."""
    yield
    loggers = logging.root.manager.loggerDict
    ours = [name for name in loggers if name.split(".")[0] == "forebay"]
    deaf = [name for name in ours if not logging.getLogger(name).isEnabledFor(logging.WARNING)]
    assert not deaf, f"logs nothing any more: {deaf}; logging.disable is at {logging.root.manager.disable}"
    raised = [handler for handler in logging.root.handlers if handler.level > logging.WARNING]
    assert not raised, f"handlers that pass no warnings on any more: {raised}"
    apart = [name for name in ours if not logging.getLogger(name).propagate]
    assert not apart, f"logs to itself alone: {apart}"
