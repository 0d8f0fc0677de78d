"""At the door of a started engine: what it can never take, and rows that are empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.engine.started import MODEL, Answers, Gate, eventually, plan_of, running, tiny, y

from forebay.core.errors import RequestError

INDEPENDENT = MODEL.replace("np.full(len(x), len(x))", "np.zeros(len(x), int)")
"""Without the output that tells a batch's rows, so that it batches."""


@pytest.mark.parametrize(
    ("rows", "width", "setting"), [(6, 1, "max_queue_rows"), (4, 8, "max_queue_bytes"), (1, 32, "max_queue_bytes")]
)
async def test_what_an_empty_queue_has_no_room_for_is_not_told_to_come_back(
    tmp_path: Path, rows: int, width: int, setting: str
) -> None:
    bounds = {"max_batch_rows": 2, "max_queue_rows": 5, "max_queue_bytes": 100}
    async with running(plan_of(tiny(tmp_path, text=INDEPENDENT), tmp_path / "data", **bounds)) as engine:
        with pytest.raises(RequestError, match=setting) as caught:
            Answers(engine).submit(*[1.0] * rows * width, rows=rows)
        assert caught.value.code == "payload_too_large"
        assert (engine.metrics.refused, engine.in_flight) == ({"payload_too_large": 1}, 0)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("pad", [True, False])
async def test_an_empty_row_shares_a_batch_only_where_padding_is_allowed(
    tmp_path: Path, pad: bool, multiple: int
) -> None:
    shapes = {"pad": pad, "pad_multiple": multiple}
    async with running(plan_of(tiny(tmp_path, text=INDEPENDENT), tmp_path / "data", **shapes)) as engine:
        gate, answers = Gate(tmp_path), Answers(engine)
        before = len(gate.calls)
        gate.close()
        first = answers.submit(100.0)
        await eventually(lambda: len(gate.calls) > before)
        items = [answers.submit(), answers.submit(3.0, 4.0), answers.submit()]
        gate.open()
        await answers.all(first, *items)
        empty = [0.0, 0.0] if pad else []
        assert [y(item)[0] for item in items] == [empty, [6.0, 8.0], empty]
        assert sorted(gate.calls[before + 1 :]) == ([3] if pad else [1, 2])
