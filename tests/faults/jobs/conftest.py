"""A house that tests of one module share, where what they do harms no process of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.jobs.houses import House, house

MOST_BODY_BYTES = 20_000
ATTEMPTS = 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Web and worker, with bodies and attempts as above."""
    options = ["--max-body-bytes", str(MOST_BODY_BYTES), "--jobs-max-attempts", str(ATTEMPTS)]
    with house(tmp_path_factory.mktemp("shared"), "web and worker", *options) as found:
        yield found
