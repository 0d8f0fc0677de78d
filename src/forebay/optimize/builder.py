"""Makes one candidate's artefact in a process of its own, started as `python -m forebay.optimize.builder FD PARENT`."""

from __future__ import annotations

import logging
import socket
import sys
import warnings
from pathlib import Path

import msgspec

from forebay.engine.child import die_with_parent
from forebay.models.artefact import ServedWith
from forebay.models.references import importable, open_reference
from forebay.optimize import wire
from forebay.optimize.candidates.port import Candidate, NotApplicableError, Work
from forebay.optimize.judge import Judge

_LONGEST = 400


def open_candidate(reference: str) -> Candidate:
    """A recipe by `module:Class` or `file.py:Class`. Raises what `open_reference` does."""
    found: Candidate = open_reference(reference)()
    return found


def build(request: wire.Build, sock: socket.socket) -> wire.Made | wire.Failed:
    """Make it, and say what went wrong."""
    rows = wire.read_rows(Path(request.rows))
    work = Work(
        model=request.model,
        graph=Path(request.graph) if request.graph else None,
        kind=request.kind,
        calibration=rows,
        folder=Path(request.folder),
        shared=Path(request.shared),
        judge=Judge(request.goals, rows, request.labels, request.head, request.output),
        progress=lambda text: wire.send(sock, wire.Progress(text)),
    )
    candidate = open_candidate(request.candidate)
    try:
        with importable(request.candidate):
            artefact = candidate.build(work)
        # A recipe of somebody's own may say what there is not.
        served_with = msgspec.convert(msgspec.to_builtins(artefact.served_with), ServedWith)
    except AssertionError as error:
        if work.graph is None:  # which recipes that start from it assert
            return wire.Failed("not_applicable", "it starts from an ONNX graph, and there is none")
        return wire.Failed("build_failed", f"AssertionError: {error}")
    except NotApplicableError as error:
        return wire.Failed("not_applicable", error.message)
    except ImportError as error:
        return wire.Failed("missing_library", f"{error}; pip install 'forebay[{candidate.extra}]'")
    except Exception as error:  # whatever a library stumbles over rejects this candidate only
        return wire.Failed("build_failed", f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}")
    return wire.Made(artefact.model, artefact.note, list(artefact.layers), served_with)


def main() -> None:
    """Entry point of the builder's process."""
    fd, parent = (int(text) for text in sys.argv[1:3])
    die_with_parent(parent)
    warnings.simplefilter("ignore")  # of libraries, to their developers
    logging.disable(logging.WARNING)
    with socket.socket(fileno=fd) as sock:
        request = wire.receive(sock, wire.Build)
        sys.path[:] = [*sys.path, *(entry for entry in request.path if entry not in sys.path)]
        wire.send(sock, build(request, sock))


if __name__ == "__main__":
    main()
