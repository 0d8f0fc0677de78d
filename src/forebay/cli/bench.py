"""`forebay bench`: load a model on any server of the Open Inference Protocol v2 and print what came back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console

from forebay.bench.arrivals import arrivals as arrival_instants
from forebay.bench.bodies import DIFFERENT_BODIES, Endpoint, fetch_metadata, holds_outputs, pool_from_metadata
from forebay.bench.generator import run_closed, run_event_loop, run_open
from forebay.bench.recording import Recording
from forebay.bench.report import plot_latencies, print_result
from forebay.cli.curves import check_plot
from forebay.core.errors import SetupError
from forebay.core.header_values import bearer

_SKIP_SHARE = 0.1


def bench(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    model: Annotated[str, typer.Option("--model", help="The model's name on the server.")],
    rate: Annotated[float | None, typer.Option(help="Open loop: requests a second, whatever the server does.")] = None,
    clients: Annotated[int | None, typer.Option(help="Closed loop: clients that each wait for their answer.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to send.")] = 10.0,
    arrivals: Annotated[
        Literal["poisson", "onoff"], typer.Option(help="Open loop: Poisson, or bursts at ten times the rate between.")
    ] = "poisson",
    slo_ms: Annotated[
        float | None, typer.Option(help="Count 200s within this many ms; sent along as `timeout` unless --no-timeout.")
    ] = None,
    send_timeout: Annotated[bool, typer.Option("--timeout/--no-timeout", help="Send the SLO as `timeout`.")] = True,
    rows: Annotated[int, typer.Option(help="Rows a request, where the model's leading axis is variable.")] = 1,
    longest: Annotated[int, typer.Option(help="Longest variable axis other than the leading one.")] = 32,
    binary: Annotated[bool, typer.Option("--binary", help="Send tensors in the binary extension.")] = False,
    bodies: Annotated[int, typer.Option(help="Different bodies, made before the run.")] = DIFFERENT_BODIES,
    api_key: Annotated[
        str | None, typer.Option(envvar="FOREBAY_API_KEY", help="Sent as `Authorization: Bearer`.")
    ] = None,
    late_bound_ms: Annotated[float, typer.Option(help="A run whose sends were later than this, p99, is void.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of values and arrivals.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the figures as JSON only.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the latency distribution to this picture.")] = None,
) -> None:
    """Load a model with random requests made from its metadata.

    Give --rate for an open loop (latency counts from the intended send time) or --clients for a closed one. The first
    tenth of the run is not counted. Exit code 1: the run is void, or checked answers held no output.
    """
    if (rate is None) == (clients is None):
        raise SetupError("give either --rate (open loop) or --clients (closed loop)")
    numbers = {"--rate": rate, "--clients": clients, "--seconds": seconds, "--rows": rows, "--longest": longest}
    numbers |= {"--bodies": bodies, "--slo-ms": slo_ms, "--late-bound-ms": late_bound_ms}
    for flag, number in numbers.items():
        if number is not None and not (number > 0 and math.isfinite(number)):
            raise SetupError(f"{flag} {number}: it must be a number above 0")
    if plot is not None:
        check_plot(plot)
    if seed < 0:
        raise SetupError(f"--seed {seed}: it must be 0 or more")
    console = Console(stderr=json_)
    endpoint = Endpoint.parse(url)
    headers = {"Authorization": bearer(api_key)} if api_key else {}
    metadata = fetch_metadata(endpoint, model, headers)
    with console.status(f"making {bodies} different bodies"):
        pool = pool_from_metadata(
            endpoint,
            metadata,
            count=bodies,
            rows=rows,
            longest=longest,
            binary=binary,
            timeout_ms=slo_ms if send_timeout else None,
            headers=headers,
            seed=seed,
        )
    if len(pool) < bodies:
        console.print(f"bodies are large: {len(pool)} different ones were made, not {bodies}")
    with console.status(f"sending to {model} for {seconds:g} s"):
        recording = _run(endpoint, pool, rate, clients, seconds, arrivals, seed)
    skip_s = seconds * _SKIP_SHARE
    result = recording.summarise(seconds, skip_s=skip_s, slo_ms=slo_ms, late_bound_ms=late_bound_ms)
    latencies_s = recording.latencies_s(skip_s)
    if plot is not None:
        plot_latencies(plot, result, latencies_s)
    if json_:
        typer.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        print_result(console, result, latencies_s)
    if result.void or result.wrong:
        raise typer.Exit(1)


def _run(
    endpoint: Endpoint,
    pool: list[bytes],
    rate: float | None,
    clients: int | None,
    seconds: float,
    arrivals: Literal["poisson", "onoff"],
    seed: int,
) -> Recording:
    address = (endpoint.host, endpoint.port)
    if rate is not None:
        instants = arrival_instants(arrivals, rate, seconds, seed)
        return run_event_loop(run_open(address, pool, instants.tolist(), check=holds_outputs, seed=seed))
    assert clients is not None
    return run_event_loop(run_closed(address, pool, clients, seconds, check=holds_outputs, seed=seed))
