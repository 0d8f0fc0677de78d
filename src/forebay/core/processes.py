"""What a process that this one starts gets to see: its environment, and no signals before it is ready for them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from forebay.core.settings_sources import KEY_LINES_VARIABLE, SECRET_LINES_VARIABLE

_WITHHELD = frozenset(
    {SECRET_LINES_VARIABLE, KEY_LINES_VARIABLE, "FOREBAY_JOBS__STORE", "FOREBAY_JOBS__BROKER", "FOREBAY_CACHE__STORE"}
)
"""Variables that hold secrets, which a model, or a function of the user's, has no need of."""


def environment_of(threads: int) -> dict[str, str]:
    """Of a process that computes with so many threads; they must be set before numpy loads."""
    # The one place where a process environment is handed on.
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    inherited = {name: value for name, value in os.environ.items() if name not in _WITHHELD}
    return {**inherited, **limits, "TOKENIZERS_PARALLELISM": "false"}


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """A process started in here does not see Ctrl-C and SIGTERM, which may be sent to the whole group, until it is
    ready to ignore them (see `engine.child.main`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
