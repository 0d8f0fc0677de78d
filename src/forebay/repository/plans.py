"""From a model's source to the plan of its engine: the settings of every source, read when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from forebay.core.settings import ModelSettings
from forebay.core.settings_sources import LoadedSettings
from forebay.engine.setup import Plan
from forebay.models.source import ModelSource

PlanOf = Callable[[ModelSource, Mapping[str, object]], Plan]
"""A source and what a load request asks for (setting to value). Raises `SetupError` for settings that are wrong."""


def planner(loaded: LoadedSettings) -> PlanOf:
    """Plans by the loaded settings; the model's own file is read anew each time."""

    def plan(source: ModelSource, overrides: Mapping[str, object]) -> Plan:
        def resolve(attributes: dict[str, object]) -> ModelSettings:
            return loaded.model(
                source.name,
                attributes,
                source.sidecar,
                in_repository=bool(source.settings_file),
                overrides=overrides,
            )

        tree = loaded.settings
        return Plan(
            source=source,
            settings=resolve({}),
            data_dir=Path(tree.data_dir),
            shared_memory_bytes=tree.server.shared_memory_bytes,
            resolve=resolve,
        )

    return plan
