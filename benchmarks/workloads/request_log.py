"""The request log: what it costs to write 1 % of all requests down, answers included.

The MLP by wrk, alike but for the log. All bodies are different, so that none is passed over as one that is there
already; the third server has a redaction function too. Turns alternate, and each ratio is of one round. A second client
sends 1 % more, and checks its answers. Written rows are counted, so that a log that wrote nothing would show.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from benchmarks.bench_run import Bench, Contender, Json, ratios, spread
from benchmarks.pools import SplitPool, check_against, in_two_parts, mlp_inputs, protocol_json, protocol_values
from benchmarks.servers import Server
from benchmarks.turns import CHECK_SHARE, wrk_alone, wrk_and_checker
from benchmarks.workloads import mlp

from forebay.bench.bodies import Endpoint
from forebay.bench.generator import run_event_loop

HALF = 2000
"""Beginnings, and ends: four million bodies of two parts."""
SHARE = 0.01
OFF, ON, REDACTED = "off", "1 %", "1 %, redacted"
_REDACT = """
def redact(row):
    row["inputs"]["x"] = row["inputs"]["x"].round(3)
    return row
"""
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

    def turn(name: str) -> Json:
        contender = Contender(name, bench.forebay(*_arguments(name, redact)), sampled, check)
        plan = bench.plan
        with bench.serve(contender) as (server, pool):
            files = [unique(next(seeds))(server.endpoint).write(bench.scratch / f"log-{part}.bin") for part in range(2)]
            warm = run_event_loop(wrk_alone(server, files[0], mlp.CONNECTIONS, plan.warm_s))
            before = _counted(server)
            rate = warm.rate * CHECK_SHARE
            figures = run_event_loop(wrk_and_checker(server, pool, files[1], mlp.CONNECTIONS, plan.log_s, check, rate))
            after = _counted(server)
        counted = {key: after[key] - before[key] for key in after}
        return {**figures.as_json(), **counted}

    names = (OFF, ON, REDACTED)
    taken = bench.take_turns("request log, mlp", names, turn, unit="req/s", rounds=bench.plan.log_rounds)
    found: Json = {"rates": {name: spread([one["rate"] for one in turns]) for name, turns in taken.items()}}
    for name in (ON, REDACTED):
        if name in taken and OFF in taken:
            found[name] = {**ratios({"Forebay": taken[name], OFF: taken[OFF]})[OFF], "turns": taken[name]}
    found["off_turns"] = taken.get(OFF, [])
    return found


def unique(seed: int) -> Callable[[Endpoint], SplitPool]:
    """Bodies of which none comes twice, by seed: the log of the turns before knows theirs."""
    numbers = np.random.default_rng(seed).uniform(size=(2 * HALF, 8))
    halves = [",".join(f"{value:.6f}" for value in row).encode() for row in numbers]
    start = b'{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":['
    heads, tails = [start + half + b"," for half in halves[:HALF]], [half + b"]}]}" for half in halves[HALF:]]
    return lambda endpoint: in_two_parts(endpoint, "mlp", heads, tails)


def _arguments(name: str, redact: Path) -> list[str]:
    settings = ["instances=1"]
    if name != OFF:
        settings.append(f"request_log={SHARE}")
    if name == REDACTED:
        settings.append(f"request_log_redact={redact}:redact")
    return [str(mlp.MODEL), *(word for setting in settings for word in ("--set", f"mlp.{setting}"))]


def _counted(server: Server) -> dict[str, float]:
    """Rows that the server has written, and those that it has dropped."""
    host, port = server.address
    with urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()

    def total(name: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    return {"written": total(_WRITTEN), "dropped": total(_DROPPED)}
