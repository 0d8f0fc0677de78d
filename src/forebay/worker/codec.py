"""What the worker must be told about forms: jobs to requests, and answers back. `api` knows that; `worker` does not."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Protocol

from forebay.core.request import Outputs, Request
from forebay.engine.client import EngineClient
from forebay.jobs.record import JobError, JobSpec, Output

OnDone = Callable[[Request], None]
Opened = tuple[EngineClient, Request]
"""An engine, and the request that is to be submitted to it. The worker fills in `background` and `listener`."""


class JobCodec(Protocol):
    """Made once in a process; all calls are made on its event loop."""

    def served(self) -> Mapping[str, EngineClient]:
        """The models that run here now, by name; of each the version that a job without one gets."""
        ...

    def watch(self, call: Callable[[], None]) -> None:
        """Call this whenever `served` has changed."""
        ...

    def open(self, spec: JobSpec, on_done: OnDone) -> Opened:
        """Decode a job whose body is small. Raises `ForebayError`: model_not_found where its model or version is not
        served here, else what is wrong with it."""
        ...

    def open_in_steps(self, spec: JobSpec, on_done: OnDone) -> Generator[None, None, Opened]:
        """The same for a large body, in steps of a fraction of a millisecond, each of which yields."""
        ...

    def close(self, request: Request) -> Output | JobError:
        """The answer of a request that is done: its error, or its outputs as its caller asked for them. Called within
        `on_done`, since the outputs' memory belongs to the next batch. Never raises."""
        ...

    def piece(self, request: Request, row: int, outputs: Outputs) -> bytes:
        """A piece of the answer to one row of a running request, as JSON; called within the listener."""
        ...
