"""A circuit breaker: a store that fails or hangs is left alone for a while, so that it costs nobody time."""

from __future__ import annotations

from typing import Final

from forebay.core.clock import Clock

FAILURES: Final = 3
"""In a row, until it is left alone."""
FIRST_REST_S, LONGEST_REST_S = 0.5, 10.0
MEASURE_AGAIN_S: Final = 2.0
"""A round trip that was measured so long ago says nothing of the next one."""
_WEIGHT: Final = 0.1


class Breaker:
    """Ask `allows` before each call, then tell how it went."""

    def __init__(self, clock: Clock) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._failures = 0
        self._rest_s = FIRST_REST_S
        self._until = 0.0
        self._trying = False
        self.round_trip_s = 0.0
        """Of calls that went well, smoothed; 0: none has."""
        self.measured_at = 0.0
        """When the last of them ended."""

    @property
    def open(self) -> bool:
        """Whether it is left alone."""
        return self._failures >= FAILURES

    @property
    def rests(self) -> bool:
        """Whether a call now would not be made."""
        return self.open and (self._trying or self._clock() < self._until)

    def allows(self) -> bool:
        """Whether to call. After a rest one call tries whether it is well again."""
        if self.rests:
            return False
        self._trying = self.open
        return True

    def succeeded(self, took_s: float) -> bool:
        """A call went well. True: it was left alone before."""
        before = self.open
        self._failures, self._trying, self._rest_s = 0, False, FIRST_REST_S
        known, now = self.round_trip_s, self._clock()
        old = now - self.measured_at >= MEASURE_AGAIN_S
        self.round_trip_s = took_s if not known or old else known + _WEIGHT * (took_s - known)
        self.measured_at = now
        return before

    def failed(self) -> bool:
        """A call failed, or took too long. True: from now on it is left alone."""
        before = self.open
        self._failures += 1
        if not self.open:
            return False
        if not before or self._trying:
            self._until = self._clock() + self._rest_s
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        self._trying = False
        return not before
