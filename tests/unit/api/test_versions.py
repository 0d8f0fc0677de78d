"""Versions that come and go while requests are under way: who is asked, at once, everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.api.conftest import FunctionEngine, build_engines

from forebay.api.app import ForebayApp, create_app
from forebay.api.endpoint import Endpoint
from forebay.api.inference import Inference
from forebay.core.errors import RequestError

PLAIN, TWO = b"/v2/models/mlp/infer", b"/v2/models/mlp/versions/2/infer"


def version(number: str) -> FunctionEngine:
    engine = build_engines()["mlp"]
    engine.version = number
    return engine


@pytest.fixture
def inference(make_inference: Callable[..., Inference]) -> Inference:
    return make_inference()


def test_the_largest_version_is_the_default(inference: Inference) -> None:
    lane_looks_into = inference.by_path
    for number in ("10", "9"):
        inference.publish(version(number))
    assert inference.find("mlp").engine.version == "10"
    assert inference.engines["mlp"].version == "10"
    assert [engine.version for engine in inference.versions("mlp")] == ["1", "9", "10"]
    assert inference.find("mlp", "9").engine.version == "9"
    assert inference.by_path is lane_looks_into
    assert lane_looks_into[PLAIN].engine.version == "10"
    inference.retract(inference.find("mlp", "10").engine)
    assert lane_looks_into[PLAIN].engine.version == "9"
    with pytest.raises(RequestError, match="it has 1, 9"):
        inference.find("mlp", "10")


def test_a_model_without_versions_is_not_there(inference: Inference) -> None:
    inference.retract(inference.engines["mlp"])
    assert not any(b"/mlp/" in path for path in inference.by_path)
    assert inference.versions("mlp") == []
    with pytest.raises(RequestError, match="no model 'mlp'"):
        inference.find("mlp")
    inference.publish(version("2"))
    assert inference.find("mlp").engine.version == "2"


def test_the_short_way_follows(inference: Inference) -> None:
    app = create_app(inference, metrics_text=lambda: b"", ready=list)
    assert isinstance(app, ForebayApp)
    assert TWO not in app.short_way
    two = version("2")
    inference.publish(two)
    assert {PLAIN, TWO} <= set(app.short_way)
    inference.retract(two)
    assert TWO not in app.short_way
    assert PLAIN in app.short_way
    inference.retract(inference.engines["mlp"])
    assert PLAIN not in app.short_way


def test_a_replaced_engine_that_comes_back_late_takes_nothing_away(inference: Inference) -> None:
    old, new = inference.engines["mlp"], version("1")
    inference.publish(new)
    inference.retract(old)
    assert inference.find("mlp").engine is new


def test_an_engine_is_held_until_what_it_let_in_is_submitted(inference: Inference) -> None:
    old = inference.find("mlp")
    old.arriving = 1
    inference.publish(version("1"))
    assert inference.holds(old.engine)
    old.arriving = 0
    in_the_lane = [old]
    inference.lookers.append(lambda endpoint: endpoint in in_the_lane)
    assert inference.holds(old.engine)
    in_the_lane.clear()
    assert not inference.holds(old.engine)
    assert not inference.holds(version("7"))


def test_changes_of_targets_are_told(inference: Inference) -> None:
    told: list[tuple[bytes, Endpoint | None]] = []
    inference.on_route.append(lambda path, endpoint: told.append((path, endpoint)))
    two = version("2")
    inference.publish(two)
    found = inference.find("mlp", "2")
    assert told == [(PLAIN, found), (TWO, found)]
    told.clear()
    inference.retract(two)
    assert told == [(PLAIN, inference.find("mlp", "1")), (TWO, None)]
