"""Cases that `make test` leaves to `make faults`."""

from __future__ import annotations

from typing import Any

import pytest


def full(*values: Any) -> Any:
    """A parameter set of these, run by `make faults` alone."""
    return pytest.param(*values, marks=pytest.mark.full)
