"""What happened to every request of a run, and the figures made from it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

UNANSWERED = -1
"""Status of a request whose connection broke or whose answer never came."""


class Percentiles(msgspec.Struct, frozen=True):
    """Of a set of durations, in milliseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    highest: float


class LoadResult(msgspec.Struct, frozen=True):
    """One run in figures. All counts are of requests due after `skip_s`; `void` is empty where the run is valid."""

    mode: str
    seconds: float
    skip_s: float
    slo_ms: float | None
    sent: int
    offered_per_s: float
    throughput_per_s: float
    """Answers 200 that arrived in the counted window, a second."""
    goodput_per_s: float
    """Answers 200 inside the SLO (all 200s without one) of the requests counted, a second."""
    in_slo: int
    late: int
    refused: int
    deadline: int
    errors: int
    wrong: int
    """Answers 200 whose content was checked and differed; they count as errors too."""
    checked: int
    latency_ms: Percentiles | None
    """Of answers 200, from the intended send time in an open loop, from the send in a closed one."""
    refusal_ms: Percentiles | None
    lateness_ms: Percentiles | None
    """How much later than intended the generator sent."""
    cpu_share: float
    """The generator's own use of one core, 0 to 1."""
    connections: int
    statuses: dict[str, int]
    void: str


def percentiles(durations_s: Floats) -> Percentiles | None:
    """Percentiles of durations in seconds, as milliseconds; `None` where there are none."""
    if durations_s.size == 0:
        return None
    p50, p90, p99, p999 = np.percentile(durations_s, [50, 90, 99, 99.9]) * 1e3
    return Percentiles(
        count=int(durations_s.size),
        mean=float(durations_s.mean() * 1e3),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        p999=float(p999),
        highest=float(durations_s.max() * 1e3),
    )


class Recording:
    """Rows of one run, one a request: instants in seconds from the start, status, and whether the check failed."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.intended: list[float] = []
        self.sent: list[float] = []
        self.finished: list[float] = []
        self.status: list[int] = []
        self.wrong: set[int] = set()
        self.checked = 0
        self.cpu_share = 0.0
        self.connections = 0
        self.failure = ""
        """Why the generator itself could not do its work; empty if it could."""

    def add(self, intended: float, sent: float) -> int:
        """Record a send and return its number. Until `finish` it counts as unanswered."""
        self.intended.append(intended)
        self.sent.append(sent)
        self.finished.append(float("nan"))
        self.status.append(UNANSWERED)
        return len(self.status) - 1

    def finish(self, number: int, at: float, status: int) -> None:
        """Record the end of request `number`."""
        self.finished[number] = at
        self.status[number] = status

    def check(self, number: int, right: bool) -> None:
        """Record that the content of an answer was looked at."""
        self.checked += 1
        if not right:
            self.wrong.add(number)

    def latencies_s(self, skip_s: float = 0.0, statuses: Sequence[int] = (200,)) -> Floats:
        """Seconds from the intended send to the whole answer, of requests due after `skip_s` with these statuses."""
        intended, finished, status = np.array(self.intended), np.array(self.finished), np.array(self.status)
        chosen = (intended >= skip_s) & np.isin(status, statuses)
        result: Floats = (finished - intended)[chosen]
        return result

    def summarise(
        self, seconds: float, *, skip_s: float = 0.0, slo_ms: float | None = None, late_bound_ms: float = 5.0
    ) -> LoadResult:
        """The figures of the run. `seconds` is the time over which requests were sent.

        The run is void where the p99 of the generator's lateness is above `late_bound_ms` (open loop), where the
        generator could not send at all, or where nothing was sent.
        """
        intended, sent = np.array(self.intended, dtype=float), np.array(self.sent, dtype=float)
        finished, status = np.array(self.finished, dtype=float), np.array(self.status, dtype=int)
        wrong = np.zeros(len(status), dtype=bool)
        wrong[list(self.wrong)] = True
        counted = intended >= skip_s
        good = counted & (status == 200) & ~wrong
        latency_s = finished - intended
        in_slo = good if slo_ms is None else good & (latency_s * 1e3 <= slo_ms)
        window_s = max(seconds - skip_s, 1e-9)
        arrived = (status == 200) & ~wrong & (finished >= skip_s) & (finished <= seconds)
        lateness = percentiles((sent - intended)[counted]) if self.mode == "open" else None
        statuses, counts = np.unique(status[counted], return_counts=True)
        refused, deadline = counted & (status == 503), counted & (status == 504)
        return LoadResult(
            mode=self.mode,
            seconds=seconds,
            skip_s=skip_s,
            slo_ms=slo_ms,
            sent=int(counted.sum()),
            offered_per_s=float(counted.sum() / window_s),
            throughput_per_s=float(arrived.sum() / window_s),
            goodput_per_s=float(in_slo.sum() / window_s),
            in_slo=int(in_slo.sum()),
            late=int((good & ~in_slo).sum()),
            refused=int(refused.sum()),
            deadline=int(deadline.sum()),
            errors=int((counted & ~good & ~refused & ~deadline).sum()),
            wrong=int((counted & wrong).sum()),
            checked=self.checked,
            latency_ms=percentiles(latency_s[counted & (status == 200)]),
            refusal_ms=percentiles(latency_s[refused]),
            lateness_ms=lateness,
            cpu_share=self.cpu_share,
            connections=self.connections,
            statuses={_status_name(int(s)): int(c) for s, c in zip(statuses, counts, strict=True)},
            void=self._void(lateness, late_bound_ms, int(counted.sum())),
        )

    def _void(self, lateness: Percentiles | None, late_bound_ms: float, sent: int) -> str:
        if self.failure:
            return self.failure
        if sent == 0:
            return "nothing was sent in the counted window"
        if lateness is not None and lateness.p99 > late_bound_ms:
            late = f"p99 lateness {lateness.p99:.1f} ms is above the bound of {late_bound_ms:.1f} ms"
            return f"the generator sent late: {late}"
        return ""


def _status_name(status: int) -> str:
    return "unanswered" if status == UNANSWERED else str(status)
