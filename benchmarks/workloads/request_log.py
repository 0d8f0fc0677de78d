"""The request log: what it costs to write 1 % of all requests down, answers included.

The MLP by wrk, alike but for the log. All bodies are different, so that none is passed over as one that is there
already; one server has a redaction function too, and one is another without a log, which shows what this machine can
tell apart. All are up at once and asked in turns of a few seconds: the machine's speed changes more from minute to
minute than a log costs. They are started anew several times, each first as often as the others, since two starts of one
server differ too. Each ratio is of one round, and each start counts by the median of its rounds. A second client sends
1 % more, and checks its answers. Written rows are counted, so that a log that wrote nothing would show. So is what the
process that writes takes of the server's CPU, which is the same however fast the machine is just then, and how many
requests a server answers in a second of CPU of all its processes, which varies less than throughput, but varies too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import numpy as np
from benchmarks.bench_run import Bench, Contender, Json, spread
from benchmarks.pools import SplitPool, check_against, in_two_parts, mlp_inputs, protocol_json, protocol_values
from benchmarks.servers import Server
from benchmarks.turns import CHECK_SHARE, wrk_alone, wrk_and_checker
from benchmarks.workloads import mlp

from forebay.bench.bodies import Endpoint
from forebay.bench.generator import Check, run_event_loop
from forebay.request_log.spool import GATHER_S

HALF = 2000
"""Beginnings, and ends: four million bodies of two parts."""
SHARE = 0.01
OFF, AGAIN, ON, REDACTED = "off", "off again", "1 %", "1 %, redacted"
NAMES = (OFF, ON, AGAIN, REDACTED)
GATHERED_S = GATHER_S + 0.2
"""For what the log has gathered to be written."""
_REDACT = """
def redact(row):
    row["inputs"]["x"] = row["inputs"]["x"].round(3)
    return row
"""
_WRITER = "forebay.request_log.child"
_ANSWERED = "forebay_requests_total"
_WRITTEN, _DROPPED = "forebay_request_log_written_rows_total", "forebay_request_log_dropped_rows_total"


def run(bench: Bench) -> Json:
    """Requests a second of each, in turns, and their ratios."""
    inputs = mlp_inputs()
    expected = dict(enumerate(mlp.expected_rows(mlp.MODEL, inputs.astype(np.float32))))
    check = check_against(expected, protocol_values)
    redact = bench.scratch / "redact.py"
    redact.write_text(_REDACT)
    seeds = count(200)

    def sampled(endpoint: Endpoint) -> SplitPool:
        return protocol_json(endpoint, "mlp", "x", "FP32", [row[None] for row in inputs])

    def start(number: int) -> dict[str, list[Json]]:
        first = number % len(NAMES)
        names = (*NAMES[first:], *NAMES[:first])
        servers: dict[str, tuple[Server, SplitPool]] = {}
        with ExitStack() as running:

            def turn(name: str) -> Json:
                if name not in servers:
                    contender = Contender(name, bench.forebay(*_arguments(name, redact)), sampled, check)
                    servers[name] = running.enter_context(bench.serve(contender))
                    _warm(bench, servers[name][0], next(seeds), bench.plan.warm_s)
                    time.sleep(GATHERED_S)  # by then the process that writes has started, which is not what is measured
                return _turn(bench, *servers[name], check, seeds)

            return bench.take_turns("request log, mlp", names, turn, unit="req/s", rounds=bench.plan.log_rounds)

    starts = [start(number) for number in range(bench.plan.log_starts)]
    taken = {name: [one for turns in starts for one in turns.get(name, ())] for name in NAMES}
    found: Json = {"rates": {name: spread([one["rate"] for one in turns]) for name, turns in taken.items() if turns}}
    for name in (AGAIN, ON, REDACTED):
        if medians := medians_of_starts(starts, name):
            by_cpu = spread(medians_of_starts(starts, name, "requests_a_cpu_s"))
            found[name] = {**spread(medians), "by_cpu": by_cpu, "turns": taken[name]}
    found["off_turns"] = taken[OFF]
    return found


def medians_of_starts(starts: Sequence[Mapping[str, Sequence[Json]]], name: str, key: str = "rate") -> list[float]:
    """Of each start, the median of its rounds' ratios to the server without a log. Starts without both are left out."""
    pairs = [list(zip(turns.get(name, ()), turns.get(OFF, ()), strict=False)) for turns in starts]
    return [median(one[key] / off[key] for one, off in rounds) for rounds in pairs if rounds]


def _warm(bench: Bench, server: Server, seed: int, seconds: float) -> float:
    """Requests a second."""
    file = unique(seed)(server.endpoint).write(bench.scratch / "log-warm.bin")
    return run_event_loop(wrk_alone(server, file, mlp.CONNECTIONS, seconds)).rate


def _turn(bench: Bench, server: Server, pool: SplitPool, check: Check, seeds: Iterator[int]) -> Json:
    """The log gathers for a second before it writes: the timed part begins when it has begun, and the next server is
    asked when this one has ended."""
    before = _counted(server)
    rate = _warm(bench, server, next(seeds), GATHERED_S) * CHECK_SHARE
    file = unique(next(seeds))(server.endpoint).write(bench.scratch / "log.bin")
    figures = run_event_loop(wrk_and_checker(server, pool, file, mlp.CONNECTIONS, bench.plan.log_s, check, rate))
    time.sleep(GATHERED_S)
    after = _counted(server)
    done = {key: after[key] - before[key] for key in after}
    return {**figures.as_json(), **done, "requests_a_cpu_s": done["answered"] / done["cpu_s"]}


def unique(seed: int) -> Callable[[Endpoint], SplitPool]:
    """Bodies of which none comes twice, by seed: the log of the turns before knows theirs."""
    numbers = np.random.default_rng(seed).uniform(size=(2 * HALF, 8))
    halves = [",".join(f"{value:.6f}" for value in row).encode() for row in numbers]
    start = b'{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":['
    heads, tails = [start + half + b"," for half in halves[:HALF]], [half + b"]}]}" for half in halves[HALF:]]
    return lambda endpoint: in_two_parts(endpoint, "mlp", heads, tails)


def _arguments(name: str, redact: Path) -> list[str]:
    settings = ["instances=1"]
    if name in (ON, REDACTED):
        settings.append(f"request_log={SHARE}")
    if name == REDACTED:
        settings.append(f"request_log_redact={redact}:redact")
    return [str(mlp.MODEL), *(word for setting in settings for word in ("--set", f"mlp.{setting}"))]


def _counted(server: Server) -> dict[str, float]:
    """Requests that the server has answered; rows that it has written and those that it has dropped; CPU seconds of the
    server and of what writes."""
    host, port = server.address
    with urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()

    def total(name: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    cpu = {"cpu_s": server.cpu_s(), "writer_cpu_s": server.cpu_s_of(_WRITER)}
    return {"answered": total(_ANSWERED), "written": total(_WRITTEN), "dropped": total(_DROPPED), **cpu}
