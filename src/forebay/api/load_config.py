"""The `config` of a load request: Triton's model configuration, as far as it says something that Forebay has.

Source: model_config.proto in triton-inference-server/common, in its JSON form. What cannot be followed is an error and
is not passed over: a client that asked for it would believe that it has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from forebay.api.documents import PARAMETER_PREFIX, ModelConfig
from forebay.api.elements import show
from forebay.api.general import check_depth
from forebay.core.errors import RequestError, SetupError
from forebay.models.repository import VersionPolicy, read_policy
from forebay.repository.states import Asked

_TAKEN = "max_batch_size, instance_group, dynamic_batching, version_policy"
_DEEPEST = 32
_MAX_INTEGER = 2**63 - 1


def asked_of(text: str, model: str, served: ModelConfig | None) -> Asked:
    """What a configuration asks for. `served`: the one that the model has now, if it is loaded.

    A member that the file decides (`input`, `platform`, ...) may stand there as it is now, or empty. Raises
    `RequestError` that names the member.
    """
    try:
        config = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RequestError(f"config is not JSON: {error}") from None
    except RecursionError:
        raise RequestError("config is nested too deep") from None
    if not isinstance(config, dict):
        raise RequestError("config must be a JSON object")
    check_depth(config, _DEEPEST)
    if config.get("name", model) not in (model, ""):
        raise RequestError(f"config is for model {show(config['name'])}, the request for {show(model)}")
    now: dict[str, Any] = msgspec.to_builtins(served) if served is not None else {}
    overrides: dict[str, object] = {}
    policy: VersionPolicy | None = None
    for member, value in config.items():
        if member == "name" or (member == "parameters" and _is_told(value)):
            continue
        if member == "version_policy":
            policy = _policy(value)
        elif member in _READERS:
            overrides.update(_READERS[member](value))
        elif value != now.get(member) and not _is_empty(value):
            raise RequestError(f"config: {show(member)} cannot be changed by a load request; it may set {_TAKEN}")
    return Asked(overrides, policy)


def _is_told(parameters: Any) -> bool:
    """Whether they are what the served configuration tells of `auto`, which moves on while it is measured."""
    return isinstance(parameters, dict) and all(name.startswith(PARAMETER_PREFIX) for name in parameters)


def _is_empty(value: Any) -> bool:
    """Whether it is a default of the protobuf's JSON form, down to its members."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    return value in (None, "", 0, False, []) or value == "FORMAT_NONE"


def _max_batch_size(value: Any) -> dict[str, object]:
    if type(value) is not int or value < 0:
        raise RequestError(f"config: max_batch_size must be 0 or more, not {show(value)}")
    return {"max_batch_rows": value, "batching": "auto"} if value else {"batching": "off"}


def _instance_group(value: Any) -> dict[str, object]:
    """The sum of the counts; where instances run, the setting `devices` says."""
    if not isinstance(value, list) or not all(isinstance(group, dict) for group in value):
        raise RequestError("config: instance_group must be a list of objects")
    count = 0
    for group in value:
        kind, one = group.get("kind", "KIND_AUTO"), group.get("count", 1)
        if type(one) is not int or one < 1:
            raise RequestError(f"config: count of an instance_group must be 1 or more, not {show(one)}")
        if kind not in ("KIND_AUTO", "KIND_CPU"):
            raise RequestError(f"config: instance_group kind {show(kind)} is not taken; set devices in model.toml")
        extra = {key: entry for key, entry in group.items() if key not in ("name", "count", "kind")}
        if not _is_empty(extra):
            raise RequestError("config: an instance_group takes name, count and kind (KIND_AUTO, KIND_CPU)")
        count += one
    return {"instances": count} if count else {}


def _dynamic_batching(value: Any) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RequestError("config: dynamic_batching must be an object")
    delay_us = value.get("max_queue_delay_microseconds", 0)
    delay_us = _integer(delay_us)
    if type(delay_us) is not int or not 0 <= delay_us <= _MAX_INTEGER:
        raise RequestError(f"config: max_queue_delay_microseconds must be a number of 64 bits, not {show(delay_us)}")
    others = {key: entry for key, entry in value.items() if key != "max_queue_delay_microseconds"}
    if not _is_empty(others):
        raise RequestError("config: dynamic_batching takes max_queue_delay_microseconds; batch sizes are measured")
    return {"max_queue_delay_ms": delay_us / 1e3}


def _integer(value: Any) -> Any:
    """Protobuf writes 64-bit integers as text; anything else is as it was."""
    return (
        int(value) if isinstance(value, str) and value.isdecimal() and len(value) <= len(str(_MAX_INTEGER)) else value
    )


def _policy(value: Any) -> VersionPolicy:
    """`{"latest": {"num_versions": n}}`, `{"all": {}}` or `{"specific": {"versions": [...]}}`."""
    match value:
        case {"latest": {"num_versions": count}} if len(value) == 1:
            wanted: object = {"latest": count}
        case {"latest": {}} if value == {"latest": {}}:
            wanted = {"latest": 1}
        case {"all": {}} if len(value) == 1:
            wanted = "all"
        case {"specific": {"versions": [*versions]}} if len(value) == 1:
            wanted = [_integer(one) for one in versions]
        case _:
            raise RequestError(f"config: version_policy cannot be {show(value)}; it is one of latest, all, specific")
    try:
        return read_policy(wanted, "config")
    except SetupError as error:
        raise RequestError(error.message) from None


_READERS: dict[str, Callable[[Any], dict[str, object]]] = {
    "max_batch_size": _max_batch_size,
    "instance_group": _instance_group,
    "dynamic_batching": _dynamic_batching,
}
