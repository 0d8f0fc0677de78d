"""Servers that cannot outlive the tests that started them, however those end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_PROGRAM = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    os._exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""


def mortal(command: Sequence[str]) -> list[str]:
    """The command of the same process that dies with the thread that starts it, which must be the main one. As it was
    where the kernel does not know that."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid()), *command]
