"""The `config` of a load request: what maps to settings is followed, anything else is an error, never passed over."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.unit.api.conftest import FunctionEngine

from forebay.api.documents import model_config
from forebay.api.load_config import asked_of
from forebay.core.errors import RequestError
from forebay.engine.client import Tuning
from forebay.models.repository import VersionPolicy
from forebay.models.signature import Signature


def asked(config: Any, engine: FunctionEngine | None = None) -> Any:
    served = model_config(engine) if engine is not None else None
    return asked_of(config if isinstance(config, str) else json.dumps(config), "mlp", served)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ({}, {}),
        ({"name": "mlp"}, {}),
        ({"max_batch_size": 8}, {"max_batch_rows": 8, "batching": "auto"}),
        ({"max_batch_size": 0}, {"batching": "off"}),
        ({"instance_group": [{"count": 2, "kind": "KIND_CPU"}, {"kind": "KIND_AUTO"}]}, {"instances": 3}),
        ({"instance_group": []}, {}),
        ({"dynamic_batching": {}}, {"max_queue_delay_ms": 0.0}),
        ({"dynamic_batching": {"max_queue_delay_microseconds": 1500}}, {"max_queue_delay_ms": 1.5}),
        ({"dynamic_batching": {"max_queue_delay_microseconds": "100"}}, {"max_queue_delay_ms": 0.1}),
        ({"backend": "", "input": [], "parameters": {}, "model_transaction_policy": {"decoupled": False}}, {}),
    ],
)
def test_what_maps_to_settings(config: Any, overrides: dict[str, Any]) -> None:
    found = asked(config)
    assert (found.overrides, found.policy) == (overrides, None)


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ({"latest": {"num_versions": 3}}, VersionPolicy(latest=3)),
        ({"latest": {}}, VersionPolicy(latest=1)),
        ({"all": {}}, VersionPolicy()),
        ({"specific": {"versions": [1, "4"]}}, VersionPolicy(listed=(1, 4))),
    ],
)
def test_version_policies(policy: Any, wanted: VersionPolicy) -> None:
    assert asked({"version_policy": policy}).policy == wanted


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ({"name": "other"}, "'other'"),
        ({"optimization": {"priority": "PRIORITY_MAX"}}, "'optimization'"),
        ({"backend": "tensorrt"}, "'backend'"),
        ({"input": [{"name": "x"}]}, "'input'"),
        ({"max_batch_size": -1}, "max_batch_size"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"instance_group": {}}, "instance_group"),
        ({"instance_group": [{"count": 0}]}, "count"),
        ({"instance_group": [{"kind": "KIND_GPU"}]}, "devices"),
        ({"instance_group": [{"gpus": [0]}]}, "instance_group"),
        ({"dynamic_batching": {"preferred_batch_size": [4]}}, "measured"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": -1}}, "max_queue_delay_microseconds"),
        ({"version_policy": {"latest": {"num_versions": 0}}}, "version_policy"),
        ({"version_policy": {"specific": {"versions": []}}}, "version_policy"),
        ({"version_policy": "all"}, "version_policy"),
        ({"version_policy": {"all": {}, "latest": {}}}, "version_policy"),
        ("[" * 100_000, "nested"),
        ({"optimization": nested(900)}, "nested"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": "9" * 400}}, "max_queue_delay_microseconds"),
        ('{"dynamic_batching": {"max_queue_delay_microseconds": 1%s}}' % ("0" * 400), "JSON|max_queue_delay"),
        ({"version_policy": {"specific": {"versions": ["9" * 5000]}}}, "version"),
    ],
)
def test_what_cannot_be_followed_is_named(config: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        asked(config)


@pytest.mark.parametrize("name", ["mlp", "whole"])
def test_the_present_configuration_is_one_that_can_be_asked_for(engines: dict[str, FunctionEngine], name: str) -> None:
    engine = engines[name]
    engine.name = "mlp"
    config = msgspec.to_builtins(model_config(engine))
    assert asked(config, engine).policy == VersionPolicy(latest=1)
    config["output"][0]["data_type"] = "TYPE_STRING"
    with pytest.raises(RequestError, match="output"):
        asked(config, engine)


def test_what_is_told_of_measuring_may_come_back_later() -> None:
    engine = FunctionEngine("mlp", Signature((), ()), lambda: ())
    engine.tuning = Tuning("measuring", "", {"2x1": 123456.7})
    config = msgspec.to_builtins(model_config(engine))
    assert config["parameters"]["forebay.tuning_state"] == {"string_value": "measuring"}
    assert config["parameters"]["forebay.tuning_rows_per_s"] == {"string_value": "2x1=123457"}
    sent = {"parameters": config["parameters"]}
    engine.tuning = Tuning("settled", "2x1")
    assert asked(sent, engine).overrides == {}
    with pytest.raises(RequestError, match="parameters"):
        asked({"parameters": {**config["parameters"], "mine": {"string_value": "1"}}}, engine)
