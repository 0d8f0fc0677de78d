"""Becomes the Valkey that `embedded_process` starts, once it is sure that it cannot outlive its parent.

Run as a file by a bare Python, which takes milliseconds: `embedded_child.py HOW PARENT PIPE PROGRAM ARGUMENT...`.
HOW is `kernel` (Linux: the kernel kills us with the thread that started us) or `watch` (elsewhere: a process that has
nothing else to do waits for the end of PIPE, whose other end only the parent has).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_HIGHEST_FD = 4096


def main() -> None:
    """Entry point."""
    how, parent, pipe, program, *arguments = sys.argv[1:]
    if how == "kernel":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(int(pipe))
    else:
        _start_watcher(int(pipe))
    if os.getppid() != int(parent):
        os._exit(0)
    os.execv(program, [program, *arguments])


def _start_watcher(pipe: int) -> None:
    """A grandchild, so that Valkey, which we are about to become, has no child that it does not know."""
    watched = os.getpid()
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        os.close(pipe)
        return
    if os.fork():
        os._exit(0)
    # Among what it has inherited is the lock of the folder, which only Valkey and its parent may hold.
    os.closerange(0, pipe)
    os.closerange(pipe + 1, _HIGHEST_FD)
    if not os.read(pipe, 1):  # A byte says that Valkey has ended by itself and its number may be another's.
        os.kill(watched, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
