"""Measure Forebay against its peers and print the ratios.

    python benchmarks/run.py [--quick] [--only mlp,minilm,...] [--markdown]

The peers go into a virtual environment of their own. Figures, report and plots go to bench-results/<date>/.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import machine, peers_venv, plots, report  # noqa: E402
from benchmarks.bench_run import Bench  # noqa: E402
from benchmarks.plan import FULL, QUICK  # noqa: E402
from benchmarks.pools import build_example  # noqa: E402
from benchmarks.servers import ServerFailedError  # noqa: E402
from benchmarks.workloads import (  # noqa: E402
    broker_returns,
    cache,
    cache_zipf,
    fairness,
    idle,
    images,
    job_beside,
    job_events,
    job_queue,
    job_workers,
    jobs,
    minilm,
    mixed,
    mlp,
    one_client,
    open_loop,
    optimize,
    request_log,
    shapes,
    sizing,
    streaming,
    students,
    trees,
    tune,
)
from rich.console import Console  # noqa: E402

WORKLOADS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "mlp": mlp.run,
    "minilm": minilm.run,
    "images": images.run,
    "one_client": one_client.run,
    "mixed": mixed.run,
    "shapes": shapes.run,
    "idle": idle.run,
    "open_loop": open_loop.run,
    "streaming": streaming.run,
    "trees": trees.run,
    "sizing": sizing.run,
    "tune": tune.run,
    "optimize": optimize.run,
    "fairness": fairness.run,
    "jobs": jobs.run,
    "job_events": job_events.run,
    "job_queue": job_queue.run,
    "job_beside": job_beside.run,
    "job_workers": job_workers.run,
    "broker_returns": broker_returns.run,
    "cache": cache.run,
    "cache_zipf": cache_zipf.run,
    "request_log": request_log.run,
    "students": students.run,
}
EXAMPLES = {
    "mlp": {"mlp", "cache", "request_log", "one_client", "mixed", "idle", "sizing", "tune", "fairness"}
    | {"jobs", "job_events", "job_beside", "broker_returns"},
    "images": {"images", "mixed", "sizing", "fairness"},
    "minilm": {"minilm", "cache", "cache_zipf", "idle", "open_loop", "sizing", "tune", "fairness", "job_beside"}
    | {"optimize", "students"},
    "digits": {"optimize"},
}
"""Which workloads need which of the examples built; building does nothing where the files are up to date."""


def main() -> None:
    """Command line."""
    arguments = _arguments()
    console = Console()
    _need_wrk()
    folder = arguments.out / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    for name, workloads in EXAMPLES.items():
        if workloads & set(arguments.only):
            build_example(sys.executable, ROOT / "examples" / name / "build.py")
    peer_python = peers_venv.ensure(arguments.peers_venv, console)
    results: dict[str, Any] = {"machine": {**machine.describe(peer_python), "quick": arguments.quick}}
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as scratch:
        bench = Bench(QUICK if arguments.quick else FULL, Path(scratch), peer_python, console, arguments.servers)
        for place, name in enumerate(arguments.only, 1):
            console.rule(f"{name} ({place} of {len(arguments.only)})")
            started = time.monotonic()
            try:
                results[name] = WORKLOADS[name](bench)
            except ServerFailedError as error:
                console.print(f"{name}: {error}", style="red", markup=False)
            console.print(f"{name} took {time.monotonic() - started:.0f} s", style="dim")
            report.write(folder, results)  # after each, so that a run cut short leaves what it has
    plots.write(folder, results)
    console.rule("report")
    console.print(
        report.markdown(results) if arguments.markdown else "\n".join(report.report_lines(results)),
        markup=False,
        soft_wrap=True,
    )
    console.print(f"written to {folder}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short rounds, for a first look")
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, with commas: " + ", ".join(WORKLOADS))
    parser.add_argument("--servers", default="", help="only servers of these names, with ; between (for development)")
    parser.add_argument("--markdown", action="store_true", help="print the README's table instead of the whole report")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-results")
    parser.add_argument("--peers-venv", type=Path, default=ROOT / ".bench-venv", help="the peers' environment")
    arguments = parser.parse_args()
    arguments.only = [name for name in arguments.only.split(",") if name]
    arguments.servers = frozenset(name.strip() for name in arguments.servers.split(";") if name.strip())
    unknown = [name for name in arguments.only if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    return arguments


def _need_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("make bench needs wrk, the load generator. On Debian and Ubuntu: apt-get install wrk")


if __name__ == "__main__":
    main()
