"""A process that should have ended and is held up by a thread."""

from __future__ import annotations

import subprocess
import sys
import textwrap

SCRIPT = """
import logging, sys, threading, time
from forebay.embedding import leaving

def hangs():
    threading.Event().wait()

logging.basicConfig(format="%(message)s")
threading.Thread(target=hangs, name="reader").start()
last = leaving.LastResort()
last.exit_code = 3
sys.stdout.write("said before")
"""


def ended(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )


def test_a_thread_that_hangs_holds_it_up_no_longer_than_that() -> None:
    done = ended("last.within(0.1)\nlast.within(3600)")
    assert (done.returncode, done.stdout) == (3, "said before")
    assert "what still runs:" in done.stderr
    assert "reader in Condition.wait < Event.wait < hangs" in done.stderr


def test_a_log_that_hangs_too_does_not_hold_it_up() -> None:
    done = ended(
        """
        leaving._FLUSH_S = 0.1
        logging.getLogger().handlers[0].acquire()
        last.within(0.1)
        """
    )
    assert done.returncode == 3


def test_one_that_is_cancelled_ends_nothing() -> None:
    done = ended("last.within(0.05)\nlast.cancel()\ntime.sleep(0.15)\nleaving.os._exit(7)")
    assert done.returncode == 7
