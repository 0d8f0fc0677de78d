"""What `forebay optimize` shows while it runs, and how it reads its words."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from tests.unit.optimize.test_gate import measured

from forebay.cli.optimize import LiveTable, parse_slo
from forebay.core.errors import SetupError
from forebay.optimize.report import megabytes


def test_a_terminal_shows_what_is_done_and_what_is_at_work() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, color_system=None)
    with LiveTable(console) as table:
        table.begins("static-int8-excluded", "layers that hurt stay")
        table.says("static-int8-excluded", "error of layer 3 of 36")
        table.refresh()
        table.ends(measured("weights-int8", reason="slower", detail="0.5 of the speed"))
        table.refresh()
    shown = screen.getvalue()
    for told in ("error of layer 3 of 36", "weights-int8", "slower", "2.00x", "0.99950"):
        assert told in shown


def test_without_a_terminal_each_verdict_is_one_line() -> None:
    screen = io.StringIO()
    with LiveTable(Console(file=screen, width=40)) as table:
        table.begins("weights-int8", "")
        table.ends(measured("weights-int8", reason="slower", detail="half of the [original] speed is not enough"))
    assert screen.getvalue().splitlines() == [
        "weights-int8, 2.00 times as fast, slower: half of the [original] speed is not enough"
    ]


@pytest.mark.parametrize(
    ("count", "shown"), [(0, ""), (2_345, "0.0023"), (430_000, "0.43"), (1_250_000, "1.2"), (90_900_000, "90.9")]
)
def test_the_size_of_a_small_model_is_not_nothing(count: int, shown: str) -> None:
    assert megabytes(count) == shown


@pytest.mark.parametrize(("text", "milliseconds"), [("50ms", 50.0), ("0.05s", 50.0), ("2.5 ms", 2.5)])
def test_an_slo_is_a_time_with_its_unit(text: str, milliseconds: float) -> None:
    assert parse_slo(text) == pytest.approx(milliseconds)


@pytest.mark.parametrize("text", ["50", "ms", "-5ms", "0s", "soon"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="such as 50ms"):
        parse_slo(text)
