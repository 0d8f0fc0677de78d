"""When to try again, and after how long. Pure: what came, how often, and chance go in; seconds come out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from forebay.core.errors import ForebayError, SetupError


@dataclass(frozen=True)
class Retries:
    """How persistent a client is. `Retries(attempts=1)`: not at all.

    attempts: most tries of one call, the first included. first_wait_s, longest_wait_s: the wait before the n-th retry
    is drawn between 0 and first_wait_s * 2**(n-1), at most longest_wait_s (full jitter), and added to the server's
    Retry-After where there is one. longest_retry_after_s: a server that says to come back later than this is not waited
    for. longest_outage_s: calls that wait for a job try as often as it takes, until the server has been away for so
    long at a stretch. Raises `SetupError` for values that cannot be.
    """

    attempts: int = 6
    first_wait_s: float = 0.2
    longest_wait_s: float = 5.0
    longest_retry_after_s: float = 60.0
    longest_outage_s: float = 300.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise SetupError(f"retries: attempts must be at least 1, got {self.attempts}")
        for name in ("first_wait_s", "longest_wait_s", "longest_retry_after_s", "longest_outage_s"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise SetupError(f"retries: {name} must be a number of seconds from 0 up, got {value}")

    def wait_s(
        self,
        attempt: int,
        error: ForebayError,
        retry_after_s: float | None,
        left_s: float,
        chance: Callable[[], float],
    ) -> float | None:
        """Seconds to wait before the next try, or None where there should be none.

        attempt: tries so far, 1 after the first. retry_after_s: the server's wish. left_s: until the call's deadline
        (infinite: none). chance: a random number from 0 up to 1.
        """
        if attempt >= self.attempts:
            return None
        return self._pause_s(attempt, error, retry_after_s, left_s, chance)

    def outlast_s(
        self,
        attempt: int,
        error: ForebayError,
        retry_after_s: float | None,
        away_s: float,
        left_s: float,
        chance: Callable[[], float],
    ) -> float | None:
        """The same for a call that outlasts restarts. `attempt` counts since the server was last heard of, which was
        `away_s` ago."""
        if self.attempts == 1 or away_s >= self.longest_outage_s:
            return None
        return self._pause_s(attempt, error, retry_after_s, left_s, chance)

    def _pause_s(
        self,
        attempt: int,
        error: ForebayError,
        retry_after_s: float | None,
        left_s: float,
        chance: Callable[[], float],
    ) -> float | None:
        if not error.retryable:
            return None
        asked_s = retry_after_s or 0.0
        if asked_s > self.longest_retry_after_s or asked_s >= left_s:
            return None
        # Beyond 2**32 times the first wait the longest wait has long been reached; the power itself would overflow.
        jitter_s = chance() * min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 32))
        wait_s = asked_s + jitter_s
        # Jitter alone never costs the last try: half of what is left stays for it.
        return wait_s if wait_s < left_s else asked_s + (left_s - asked_s) / 2


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for: a number of seconds or an HTTP date (RFC 9110, 10.2.3).

    now: the time of day with its zone. None where there is no header or no sense in it.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        # More digits than any wait has would not fit a float.
        return float(text) if len(text) < 16 else math.inf
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
