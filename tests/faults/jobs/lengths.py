"""How long a fault test runs: once in `make test`, longer and against more kinds of house in `make faults`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.faults.jobs.houses import Kind

BOTH: tuple[Kind, Kind] = ("serve", "web and worker")
"""The two that are promised the same."""
ON_A_NODE: tuple[Kind, Kind] = ("serve on a node", "web and worker")


def lengths(
    short: tuple[Kind, Any],
    full: Any,
    kinds: tuple[Kind, ...] = BOTH,
    name: str = "rounds",
    *,
    carried: bool = False,
) -> pytest.MarkDecorator:
    """Parameters `kind` of `house` and `name`, how often or how long: `short` in `make test`; `full` with each of the
    `kinds` in `make faults`. `carried`: there also over a RabbitMQ and an SQS, and once over a Kafka."""
    if carried:
        kinds = (*kinds, "over RabbitMQ", "over SQS")
    long = [pytest.param(kind, full, marks=pytest.mark.full) for kind in kinds]
    if carried:
        long.append(pytest.param("over Kafka", short[1], marks=pytest.mark.full))
    return pytest.mark.parametrize(("kind", name), [short, *long])


def repeated(full: int) -> pytest.MarkDecorator:
    """A parameter `rounds`: once in `make test`, `full` times in `make faults`."""
    return pytest.mark.parametrize("rounds", [1, pytest.param(full, marks=pytest.mark.full)])
