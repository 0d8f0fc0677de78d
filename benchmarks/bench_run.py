"""What every workload is handed: the plan, folders, Pythons, where to tell of progress; and rounds of turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from benchmarks.machine import usable_cores
from benchmarks.plan import Plan
from benchmarks.pools import SplitPool
from benchmarks.servers import Server, ServerFailedError, free_port, running
from rich.console import Console

from forebay.bench.bodies import Endpoint
from forebay.bench.generator import Check

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
MODELS = ROOT / ".forebay" / "models"
OURS = "Forebay"

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One server under test: how to start it, what to send, what is right."""

    name: str
    command: Callable[[int], Sequence[str]]
    """From the port."""
    pool: Callable[[Endpoint], SplitPool]
    check: Check
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Bench:
    """One run of the bench."""

    plan: Plan
    scratch: Path
    peer_python: Path
    console: Console
    only: frozenset[str] = frozenset()
    """Names of contenders to run (development); empty: all."""

    @property
    def cores(self) -> int:
        """Cores that the servers and the generator share."""
        return usable_cores()

    def tell(self, line: str) -> None:
        """One line of progress."""
        self.console.print(line, highlight=False, soft_wrap=True)

    def forebay(self, *arguments: str) -> Callable[[int], list[str]]:
        """The command line of our own server, with these models and settings and nothing else."""
        executable = str(Path(sys.executable).with_name("forebay"))
        return lambda port: [executable, "serve", *arguments, "--port", str(port)]

    def peer(self, script: str, *arguments: str) -> Callable[[int], list[str]]:
        """A peer's script in the peers' environment. mosec takes its port as a flag, LitServe from the environment."""
        command = [str(self.peer_python), str(PEERS / script), *arguments]
        if script.startswith("mosec"):
            return lambda port: [*command, "--address", "127.0.0.1", "--port", str(port), "--timeout", "120000"]
        return lambda port: ["env", f"BENCH_PORT={port}", *command]

    def asgi(self, application: str) -> Callable[[int], list[str]]:
        """uvicorn with its fast parts and no access log, one process."""
        python = str(self.peer_python)
        flags = [
            "--http",
            "httptools",
            "--loop",
            "uvloop",
            "--no-access-log",
            "--log-level",
            "warning",
            "--lifespan",
            "off",
        ]
        return lambda port: [
            python, "-m", "uvicorn", f"benchmarks.peers.asgi:{application}", "--port", str(port), *flags,
        ]  # fmt: skip

    def peer_env(self, **settings: str) -> dict[str, str]:
        """Settings for a peer: MODEL, TOKENIZER, STYLE, WORKERS."""
        env = {f"BENCH_{name}": value for name, value in settings.items()}
        return {**env, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}

    def no_server(self, workload: str, model: Path, inputs: Path, seconds: float, batch: int, processes: int) -> float:
        """Rows a second of the loop without a server."""
        command = [str(self.peer_python), "-m", "benchmarks.peers.no_server", workload]
        done = subprocess.run(
            [*command, str(inputs), str(seconds), str(batch), str(processes)],
            env={**os.environ, **self.peer_env(MODEL=str(model), TOKENIZER=str(MODELS / "minilm" / "tokenizer.json"))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the loop without a server failed:\n{done.stderr}")
        rate: float = json.loads(done.stdout.splitlines()[-1])["rows_per_s"]
        return rate

    @contextmanager
    def serve(self, contender: Contender) -> Iterator[tuple[Server, SplitPool]]:
        """Start a contender; gives the server and its bodies."""
        port = free_port()
        endpoint = Endpoint("127.0.0.1", port)
        pool = contender.pool(endpoint)
        with running(
            contender.name, contender.command(port), port, pool[0], env=contender.env, cwd=self.scratch
        ) as server:
            yield server, pool

    def chosen(self, contenders: Sequence[Contender]) -> list[Contender]:
        """Those that this run measures."""
        return [contender for contender in contenders if not self.only or contender.name in self.only]

    def take_turns(
        self, workload: str, names: Sequence[str], turn: Callable[[str], Json], *, unit: str, rounds: int
    ) -> dict[str, list[Json]]:
        """Rounds of A B C, B C A, C A B ..., so that nobody always follows the same one. One that fails to start is
        told and left out of the rounds that follow."""
        taken: dict[str, list[Json]] = {name: [] for name in names}
        broken: set[str] = set()
        for round_number in range(1, rounds + 1):
            first = (round_number - 1) % max(1, len(names))
            for name in (*names[first:], *names[:first]):
                if name in broken:
                    continue
                try:
                    figures = turn(name)
                except ServerFailedError as error:
                    broken.add(name)
                    self.tell(f"[red]{workload}: {name} failed[/]: {error}")
                    continue
                taken[name].append(figures)
                self.tell(
                    f"{workload}, round {round_number} of {rounds}: {name:28} {figures['rate']:12,.1f} {unit}"
                    + (
                        f"  ({figures['checked']} answers checked, {figures['wrong']} wrong)"
                        if "checked" in figures
                        else ""
                    )
                )
        return {name: turns for name, turns in taken.items() if turns}


def spread(values: Sequence[float]) -> Json:
    """Median, lowest and highest."""
    return {"median": median(values), "lowest": min(values), "highest": max(values), "rounds": len(values)}


def ratios(taken: Mapping[str, Sequence[Json]], key: str = "rate") -> dict[str, Json]:
    """Forebay's figure over each other's, round by round, then the spread of these ratios."""
    ours = taken.get(OURS, ())
    result: dict[str, Json] = {}
    for name, turns in taken.items():
        pairs = [a[key] / b[key] for a, b in zip(ours, turns, strict=False) if b[key] > 0]
        if name != OURS and pairs:
            result[name] = spread(pairs)
    return result


def throughput_result(taken: Mapping[str, Sequence[Json]], unit: str) -> Json:
    """The usual shape of a closed-loop workload's result."""
    return {
        "unit": unit,
        "rates": {name: spread([turn["rate"] for turn in turns]) for name, turns in taken.items()},
        "ratios": ratios(taken),
        "turns": {name: list(turns) for name, turns in taken.items()},
    }
