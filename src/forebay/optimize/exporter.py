"""Exports a torch module in a process of its own, started as `python -m forebay.optimize.exporter FD PARENT`.

The user's code runs here and nowhere else, so that what it reads can be seen, and nothing of it stays.
"""

from __future__ import annotations

import logging
import socket
import sys
import warnings
from pathlib import Path

from forebay.core.errors import SetupError
from forebay.engine.child import die_with_parent
from forebay.optimize import wire
from forebay.optimize.sources.reads import Reads
from forebay.optimize.sources.torch_module import export_module


def export(request: wire.Export) -> wire.Exported | wire.Refused:
    """Export it, and say what it has read, or why not."""
    path = Path(request.path)
    reads = Reads(path)
    try:
        made = export_module(path, request.factory, request.name, Path(request.work), reads.watched)
        return wire.Exported(made.model, str(made.graph or ""), made.note, reads.files)
    except SetupError as error:
        return wire.Refused(error.message)


def main() -> None:
    """Entry point of the exporter's process."""
    fd, parent = (int(text) for text in sys.argv[1:3])
    die_with_parent(parent)
    warnings.simplefilter("ignore")  # of libraries, to their developers
    logging.disable(logging.WARNING)
    with socket.socket(fileno=fd) as sock:
        request = wire.receive(sock, wire.Export)
        sys.path[:] = request.sys_path
        wire.send(sock, export(request))


if __name__ == "__main__":
    main()
