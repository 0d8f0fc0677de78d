"""How long a fault test runs: once in `make test`, more often in `make faults`."""

from __future__ import annotations

import pytest


def rounds(short: int, full: int) -> pytest.MarkDecorator:
    """A parameter `rounds`: how often the fault happens."""
    return pytest.mark.parametrize("rounds", [short, pytest.param(full, marks=pytest.mark.full)])


kinds = pytest.mark.parametrize("kind", ["serve", "web and worker"])
"""A parameter `kind` of `house`: both of those that are promised the same."""
