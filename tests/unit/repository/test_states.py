"""Why a model that is known does not serve: what went wrong comes before what was chosen so."""

from __future__ import annotations

from typing import Any, cast

import pytest

from forebay.repository.states import NOT_CHOSEN, UNLOADED, Held, State, why_not_loaded


def held(reason: str, state: State = "UNAVAILABLE", *, serves: bool = False) -> Held:
    return Held(state, reason, cast(Any, object()) if serves else None)


@pytest.mark.parametrize(
    ("versions", "version", "told"),
    [
        ({}, None, ""),
        ({1: held("", "READY", serves=True)}, None, ""),
        ({1: held("", "READY", serves=True)}, "1", ""),
        ({1: held("its file is torn")}, None, "its file is torn"),
        ({1: held("its file is torn")}, "1", "its file is torn"),
        ({1: held("its file is torn")}, "2", ""),
        ({1: held("its file is torn"), 2: held(UNLOADED)}, None, "its file is torn"),
        ({1: held("torn"), 2: held("torn too"), 3: held(NOT_CHOSEN)}, None, "torn too"),
        ({1: held(UNLOADED), 2: held(NOT_CHOSEN)}, None, NOT_CHOSEN),
        ({1: held("", "READY", serves=True), 2: held("its file is torn")}, "2", "its file is torn"),
        ({1: held("requests that were let in are answered", "UNLOADING")}, None, "it is being unloaded"),
    ],
)
def test_the_reason_is_of_the_version_or_of_the_latest_that_failed(
    versions: dict[int, Held], version: str | None, told: str
) -> None:
    assert why_not_loaded(versions, version) == told
