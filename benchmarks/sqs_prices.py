"""What the calls to an SQS cost, as AWS counts them.

A call is billed as one request, and as one more for each 64 KiB of messages in it beyond the first. Prices are those
that were told for us-east-1 in 2026, without the first million of a month, which is free, and without transfer. They
change, and differ by region: https://aws.amazon.com/sqs/pricing/ has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

DOLLARS_A_MILLION: Final = 0.40
"""Requests to a standard queue."""
FIFO_DOLLARS_A_MILLION: Final = 0.50
_MONTH_S: Final = 30 * 86400


class Cost(msgspec.Struct, frozen=True):
    """Of a million jobs: calls that are made, requests that are billed for them, and dollars."""

    calls: float
    requests: float
    dollars: float


def of_a_million(calls: Mapping[str, int], billed: Mapping[str, int], jobs: int, *, fifo: bool = False) -> Cost:
    """As `SqsLink` counted them while so many jobs were sent, received and deleted."""
    many = 1e6 / jobs
    requests = many * sum(billed.values())
    price = FIFO_DOLLARS_A_MILLION if fifo else DOLLARS_A_MILLION
    return Cost(many * sum(calls.values()), requests, requests * price / 1e6)


def of_a_month_idle(levels: int, poll_s: int, *, fifo: bool = False) -> Cost:
    """Of one worker with one model that waits all the time: a call that waits for each level."""
    requests = levels * _MONTH_S / poll_s
    price = FIFO_DOLLARS_A_MILLION if fifo else DOLLARS_A_MILLION
    return Cost(requests, requests, requests * price / 1e6)
