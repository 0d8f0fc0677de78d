"""What is asked of a server: so large a share of all requests is answered within so many milliseconds."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from forebay.core.errors import SetupError

MOST_REFUSED: Final = 0.01
"""Share of the requests that may be refused, whatever the SLO's own share allows."""

_FORM = re.compile(r"p(?P<percent>\d{1,2}(?:\.\d+)?)\s*(?:=|<=?)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s)")
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Slo(msgspec.Struct, frozen=True):
    """`share` of all that is sent (0.99 for p99) is to be answered within `bound_ms` of its intended send time."""

    share: float
    bound_ms: float

    @property
    def percentile(self) -> str:
        """`p99`."""
        return f"p{100 * self.share:.6g}"

    @property
    def bound_s(self) -> float:
        """The bound in seconds."""
        return self.bound_ms / 1e3

    def holds(self, sent: int, in_time: int, refused: int) -> bool:
        """Whether requests with this outcome keep to it: the late, the refused and the unanswered are all missed."""
        # A billionth of a request more, so that 1 - 0.99 allows one in a hundred.
        return sent > 0 and sent - in_time <= (1 - self.share) * sent + 1e-9 and refused <= MOST_REFUSED * sent

    def __str__(self) -> str:
        return f"{self.percentile} <= {self.bound_ms:g} ms"


def parse_slo(text: str) -> Slo:
    """`p99=50ms`, `p95=1.5s`. Raises `SetupError` (`config_error`) that names the value and the form."""
    match = _FORM.fullmatch(text.strip())
    if match is not None:
        share = float(match["percent"]) / 100
        bound_ms = round(float(match["number"]) * _UNITS_MS[match["unit"]], 9)  # 2.01s is 2010 ms, not 2009.99...98
        if share > 0 and bound_ms > 0:
            return Slo(share, bound_ms)
    raise SetupError(
        f"--slo {text!r} is no objective; the form is pNN=TIME with TIME in us, ms or s and above 0, such as p99=50ms, "
        "p99.9=200ms or p95=1.5s"
    )
