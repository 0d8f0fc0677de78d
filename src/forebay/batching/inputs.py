"""What `forebay simulate` is told in short strings: costs, arrivals, lengths. Errors name the text and the forms."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forebay.batching.arrivals import on_off, poisson, text_length, trace
from forebay.batching.costs import Cost, Linear, Table, minilm

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
COST_FORMS: Final = "linear:20ms,1ms  flat:20ms  minilm  table:FILE.json"
ARRIVAL_FORMS: Final = "poisson  bursts  bursts:RATIO  closed:CLIENTS  trace:FILE"


def parse_duration(text: str) -> float:
    """Seconds of `20ms`, `1.5s`, `300us`. Raises ValueError."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*(us|ms|s)\s*", text)
    try:
        if match is None:
            raise ValueError
        return float(match[1]) * _UNITS[match[2]]
    except ValueError:
        raise ValueError(f"{text!r} is not a duration such as 20ms, 1.5s or 300us") from None


def parse_cost(text: str) -> Cost:
    """A cost model from one of `COST_FORMS`. Raises ValueError."""
    kind, _, rest = text.partition(":")
    if kind == "minilm" and not rest:
        return minilm()
    if kind == "table" and rest:
        return Table.from_file(Path(rest))
    parts = rest.split(",")
    if (kind == "flat" and len(parts) == 1) or (kind == "linear" and len(parts) == 2):
        cost = Linear(*(parse_duration(part) for part in parts))
        if cost.fixed_s + cost.per_row_s > 0:
            return cost
    raise ValueError(f"{text!r} is not a cost; the forms are: {COST_FORMS}")


@dataclass(frozen=True, slots=True)
class ArrivalForm:
    """Either an open loop (`instants` makes its iterator) or `clients` in a closed loop."""

    instants: Callable[[random.Random], Iterator[float]] | None
    clients: int = 0


def parse_arrivals(text: str, rate: float) -> ArrivalForm:
    """Arrivals from one of `ARRIVAL_FORMS`, `rate` a second on average. Raises ValueError."""
    kind, _, rest = text.partition(":")
    if kind == "poisson" and not rest:
        return ArrivalForm(lambda rng: poisson(rate, rng))
    if kind == "bursts":
        ratio = _number(rest, text) if rest else 10.0
        if ratio >= 1:
            return ArrivalForm(lambda rng: on_off(rate, rng, ratio=ratio))
    if kind == "closed" and rest.isdecimal() and int(rest) >= 1:
        return ArrivalForm(None, int(rest))
    if kind == "trace" and rest:
        path = Path(rest)
        try:
            instants = list(trace(path))
        except OSError as error:
            raise ValueError(f"cannot read the trace {rest}: {error.strerror}") from None
        return ArrivalForm(lambda _: iter(instants))
    raise ValueError(f"{text!r} is not a kind of arrivals; the forms are: {ARRIVAL_FORMS}")


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} in {whole!r} is not a number") from None


def parse_lengths(text: str) -> Callable[[random.Random], int] | None:
    """Lengths: `fixed` (none), `text`, or `LOW-HIGH` (uniform). Raises ValueError."""
    if text == "fixed":
        return None
    if text == "text":
        return text_length
    low, dash, high = text.partition("-")
    if dash and low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high):
        first, last = int(low), int(high)
        return lambda rng: rng.randint(first, last)
    raise ValueError(f"{text!r} is not a kind of lengths; the forms are: fixed  text  LOW-HIGH")
