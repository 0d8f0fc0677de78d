"""Every check, in the order in which they run."""

from __future__ import annotations

from forebay.conformance import (
    checks_binary,
    checks_extensions,
    checks_http,
    checks_infer,
    checks_refuse,
    checks_server,
    checks_statistics,
    checks_values,
)
from forebay.conformance.check import Check

CHECKS: tuple[Check, ...] = (
    *checks_server.CHECKS,
    *checks_infer.CHECKS,
    *checks_values.CHECKS,
    *checks_refuse.CHECKS,
    *checks_binary.CHECKS,
    *checks_statistics.CHECKS,
    *checks_extensions.CHECKS,
    *checks_http.CHECKS,
)

AREAS: tuple[str, ...] = tuple(dict.fromkeys(one.area for one in CHECKS))
