"""Requests to one running server: one after another, as fast as they are answered, and at a Poisson rate."""

from __future__ import annotations

import numpy as np

from forebay.bench.generator import run_closed, run_event_loop, run_open
from forebay.bench.recording import UNANSWERED, Floats, Recording
from forebay.tune.inputs import Inputs
from forebay.tune.slo import Slo
from forebay.tune.world import CannotServeError, Probe

Address = tuple[str, int]

HALF_S = 0.3
"""At the start of an open loop, at half the rate: connections are opened, caches warmed."""
SKIP_S = 0.5
"""At the start of an open loop, not counted: queues are empty then."""
HOPELESS = 0.25
"""A probe that has missed this share of all it was to send is ended early."""
PARTS = 8
"""Of a probe, each looked at by itself."""
REFUSALS = (429, 503)


class Misses:
    """Counts requests that were not answered in time while a run goes on; true once they are more than `allowed`."""

    def __init__(self, slo: Slo, skip_s: float, allowed: float) -> None:
        """skip_s: what was due earlier does not count."""
        self._bound_s, self._skip_s, self._allowed = slo.bound_s, skip_s, allowed
        self._place, self._missed = 0, 0

    def __call__(self, recording: Recording) -> bool:
        """Look at what has happened since the last time."""
        now = recording.sent[-1] if recording.sent else 0.0
        intended, finished, status = recording.intended, recording.finished, recording.status
        # In order: one that is still in time holds back those behind it, which were sent later anyway.
        while self._place < len(status):
            at = self._place
            overdue = now - intended[at] > self._bound_s
            answered = status[at] != UNANSWERED or finished[at] == finished[at]
            if not (answered or overdue):
                break
            in_time = status[at] == 200 and finished[at] - intended[at] <= self._bound_s
            self._missed += intended[at] >= self._skip_s and not in_time
            self._place += 1
        return self._missed > self._allowed


def one_by_one(address: Address, inputs: Inputs, seconds: float, answer_timeout_s: float) -> list[float]:
    """Seconds that each answer of a single client took. Raises `CannotServeError` where none is a 200."""
    recording = _run(run_closed(address, inputs.requests, 1, seconds, answer_timeout_s=answer_timeout_s))
    return _answered(recording, inputs)


def saturated(address: Address, inputs: Inputs, clients: int, seconds: float, answer_timeout_s: float) -> float:
    """Answers 200 a second with so many clients that each wait for theirs; the first fifth is not counted."""
    recording = _run(run_closed(address, inputs.requests, clients, seconds, answer_timeout_s=answer_timeout_s))
    _answered(recording, inputs)
    return recording.summarise(seconds, skip_s=seconds / 5).throughput_per_s


def at_rate(address: Address, inputs: Inputs, rate: float, seconds: float, slo: Slo, seed: int) -> Probe:
    """An open loop of Poisson arrivals over `seconds` and a little before that is not counted."""
    whole_s = SKIP_S + seconds
    instants = arrivals(rate, whole_s, seed)
    misses = Misses(slo, SKIP_S, max(HOPELESS, 2 * (1 - slo.share)) * rate * seconds)
    recording = _run(
        run_open(address, inputs.requests, instants, answer_timeout_s=slo.bound_s + 0.1, give_up=misses, seed=seed)
    )
    sent_until_s = recording.intended[-1] if recording.intended else 0.0
    cut_short = len(recording.intended) < len(instants)
    end_s = sent_until_s if cut_short else whole_s
    skip_s = min(SKIP_S, end_s / 2)
    result = recording.summarise(end_s, skip_s=skip_s, slo_ms=slo.bound_ms, late_bound_ms=float("inf"))
    return Probe(
        rate=rate,
        seconds=end_s - skip_s,
        sent=result.sent,
        in_time=result.in_slo,
        refused=sum(result.statuses.get(str(status), 0) for status in REFUSALS),
        # How many fall into the window that counts varies; more than was asked for was not kept up.
        goodput_per_s=min(result.goodput_per_s, rate),
        quantile_ms=_quantile_ms(recording, skip_s, slo),
        usual_missed=_usual_missed(recording, skip_s, slo),
        lateness_ms=result.lateness_ms.p99 if result.lateness_ms else 0.0,
        generator_busy=recording.cpu_share,
    )


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Instants, ascending: half the rate for a moment, then `rate`.

    A Poisson process, given how many arrive: short runs would otherwise differ by several percent in their rates.
    """
    generator = np.random.default_rng(seed)
    spans = (0.0, HALF_S, rate / 2), (HALF_S, seconds, rate)
    parts = [np.sort(generator.uniform(begin, end, round(a_second * (end - begin)))) for begin, end, a_second in spans]
    instants: list[float] = np.concatenate(parts).tolist()
    return instants


def _latencies_s(recording: Recording, skip_s: float) -> Floats:
    """Of all that was due after `skip_s`, in the order of sending; infinite where there was no answer 200."""
    intended = np.array(recording.intended)
    latency_s: Floats = np.array(recording.finished) - intended
    latency_s[np.array(recording.status) != 200] = np.inf
    return latency_s[intended >= skip_s]


def _usual_missed(recording: Recording, skip_s: float, slo: Slo) -> float:
    missed = _latencies_s(recording, skip_s) > slo.bound_s
    parts = [part for part in np.array_split(missed, PARTS) if part.size]
    return float(np.median([part.mean() for part in parts])) if parts else 1.0


def _quantile_ms(recording: Recording, skip_s: float, slo: Slo) -> float | None:
    counted = _latencies_s(recording, skip_s)
    if not counted.size:
        return None
    # No mean of two neighbours: one of them may be infinite.
    value = float(np.quantile(counted, slo.share, method="higher"))
    return value * 1e3 if np.isfinite(value) else None


def _run(loop: object) -> Recording:
    try:
        recording: Recording = run_event_loop(loop)  # type: ignore[arg-type]
    except OSError as error:
        raise CannotServeError(f"no connection: {error}") from None
    return recording


def _answered(recording: Recording, inputs: Inputs) -> list[float]:
    latencies = recording.latencies_s()
    if latencies.size:
        return [float(seconds) for seconds in latencies]
    statuses = sorted(set(recording.status))
    told = "nothing" if statuses in ([], [UNANSWERED]) else "status " + ", ".join(map(str, statuses))
    raise CannotServeError(f"it answers {inputs.kind} with {told}, never with 200")
