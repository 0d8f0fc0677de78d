"""How long each part of the bench runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Rounds and seconds. All contenders of a workload take turns inside each round."""

    rounds: int
    warm_s: float
    """Load before each timed turn, not counted."""
    wrk_s: float
    """One timed turn of wrk."""
    minilm_rounds: int
    minilm_s: float
    """One timed turn on MiniLM, where a slow peer answers 15 requests a second."""
    open_s: float
    """One open-loop run."""
    open_loads: tuple[float, ...]
    """Offered load, as a share of the highest closed-loop rate."""
    open_rounds: int
    mixed_rounds: int
    mixed_s: float
    idle_s: float
    shapes_s: float
    first_pieces: int
    """Streams of one turn."""
    sizing_rounds: int
    sizing_s: float
    """One timed turn of one setting; MiniLM's are twice as long."""
    fair_rounds: int
    fair_s: float
    tune_rounds: int
    """Climbs of each configuration in the exhaustive grid."""
    tune_caps: tuple[int, ...]
    search_rounds: int
    """Of `forebay optimize`."""
    job_latencies: int
    """Jobs of one turn, one after another."""
    job_streams: int
    jobs_queued: int
    jobs_beside: int
    """That wait while synchronous requests are measured."""
    beside_rounds: int
    beside_s: float
    shared_jobs: int
    """A backlog that workers share."""
    shared_rounds: int
    zipf_keys: int
    """Different texts under Zipf traffic. Warm-up and memory of the cache are in proportion."""
    log_starts: int
    """Of the request log's servers: two starts of one differ by more than a log costs."""
    log_rounds: int
    """Short ones, of each start."""
    log_s: float
    """One timed turn of it."""


FULL = Plan(
    rounds=5,
    warm_s=2.0,
    wrk_s=6.0,
    minilm_rounds=3,
    minilm_s=15.0,
    open_s=15.0,
    open_loads=(0.5, 0.8, 0.9, 1.0, 2.0),
    open_rounds=2,
    mixed_rounds=3,
    mixed_s=15.0,
    idle_s=20.0,
    shapes_s=10.0,
    first_pieces=3000,
    sizing_rounds=10,
    sizing_s=2.0,
    fair_rounds=3,
    fair_s=15.0,
    tune_rounds=2,
    tune_caps=(8, 32, 256),
    search_rounds=5,
    job_latencies=500,
    job_streams=5000,
    jobs_queued=1_000_000,
    jobs_beside=10_000,
    beside_rounds=3,
    beside_s=10.0,
    shared_jobs=4000,
    shared_rounds=3,
    zipf_keys=100_000,
    log_starts=8,
    log_rounds=4,
    log_s=3.0,
)
QUICK = Plan(
    rounds=2,
    warm_s=1.0,
    wrk_s=3.0,
    minilm_rounds=1,
    minilm_s=8.0,
    open_s=6.0,
    open_loads=(0.5, 0.8, 1.0, 2.0),
    open_rounds=1,
    mixed_rounds=1,
    mixed_s=6.0,
    idle_s=5.0,
    shapes_s=4.0,
    first_pieces=1000,
    sizing_rounds=4,
    sizing_s=2.0,
    fair_rounds=1,
    fair_s=8.0,
    tune_rounds=1,
    tune_caps=(8, 256),
    search_rounds=2,
    job_latencies=200,
    job_streams=1000,
    jobs_queued=100_000,
    jobs_beside=10_000,
    beside_rounds=1,
    beside_s=6.0,
    shared_jobs=2000,
    shared_rounds=1,
    zipf_keys=10_000,
    log_starts=2,
    log_rounds=2,
    log_s=3.0,
)
