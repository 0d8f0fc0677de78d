"""A real engine around a tiny Python model, in the test's own event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.unit.engine.requests import request

from forebay.core.request import Request, output_array
from forebay.core.settings import ModelSettings
from forebay.core.tensors import Array
from forebay.engine.engine import Engine
from forebay.engine.setup import Plan, start_engine
from forebay.models.source import ModelSource

MODEL = '''
import os
import time

import numpy as np

import forebay

HERE = os.path.dirname(__file__)


class Tiny(forebay.Model):
    """y = 2x. Waits while the file `gate` is beside it; -1 raises, -2 ends the process, -3 runs out of memory."""

    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1]), "rows": ("INT32", [])}

    def predict(self, x):
        with open(os.path.join(HERE, "calls"), "a") as file:
            file.write(f"{len(x)}\\n")
        while os.path.exists(os.path.join(HERE, "gate")):
            time.sleep(0.001)
        if (x == -1).any():
            raise ValueError("minus one")
        if (x == -2).any():
            os._exit(3)
        if (x == -3).any():
            raise MemoryError("minus three")
        return x * 2, np.full(len(x), len(x))
'''


def tiny(folder: Path, attributes: str = "", text: str = MODEL) -> ModelSource:
    """The model above, with further lines in its class."""
    marker = '    inputs = {"x": ("FP32", [-1])}\n'
    path = folder / "tiny.py"
    path.write_text(text.replace(marker, f"    {attributes}\n{marker}"))
    return ModelSource("tiny", "python", str(path), "Tiny")


class Gate:
    """While it is closed, model calls do not return."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "gate"
        self._calls = folder / "calls"

    def close(self) -> None:
        """From now on calls wait."""
        self._file.touch()

    def open(self) -> None:
        """Let them go."""
        self._file.unlink()

    @property
    def calls(self) -> list[int]:
        """The rows of each call so far, those at load included."""
        return [int(line) for line in self._calls.read_text().split()] if self._calls.exists() else []


def plan_of(source: ModelSource, data_dir: Path, **settings: Any) -> Plan:
    """A plan with one instance, nothing measured, small shared-memory limit, unless told otherwise."""
    chosen = ModelSettings(**{"instances": 1, "warm_up_s": 0.0, **settings})

    def resolve(attributes: dict[str, object]) -> ModelSettings:
        known = {key: value for key, value in attributes.items() if key in ModelSettings.__struct_fields__}
        return msgspec.structs.replace(chosen, **known)

    return Plan(source, chosen, data_dir, shared_memory_bytes=1 << 16, resolve=resolve)


@asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[Engine]:
    """The engine, started; closed at the end."""
    engine = Engine(plan)
    try:
        await start_engine(engine)
        yield engine
    finally:
        await engine.close(0.0)


class Answers:
    """Submits requests of one row (or more) and keeps what became of them; each may end only once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ended: list[Request] = []

    def submit(self, *values: float, rows: int = 1, timeout_s: float = 60.0, explain: bool = True) -> Request:
        """`values` are all rows' elements, row by row."""
        shape = (len(values) // rows if rows else 1,)
        item = request([list(values)], [shape], rows, timeout_s=timeout_s, on_done=self.on_done, explain=explain)
        self.engine.submit(item)
        return item

    def on_done(self, item: Request) -> None:
        """Called by the engine."""
        assert item not in self.ended, "answered twice"
        self.ended.append(item)

    async def all(self, *items: Request) -> None:
        """Wait until these have ended."""
        await eventually(lambda: all(item in self.ended for item in items))


def y(item: Request) -> Any:
    """The first output, as lists."""
    assert item.error is None
    array: Array = output_array(item, 0, True)
    return array.tolist()


async def eventually(holds: Callable[[], object]) -> None:
    """Wait until this is true; generous, since it is not a measurement."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "not within 30 s"
        await asyncio.sleep(0.002)
