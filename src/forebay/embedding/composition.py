"""From models and settings to a site: what the command line and the Python functions share.

Neither the environment nor a file is looked for here: who calls says which count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from forebay.api.auth import Gate, Keys, Quota, check_bind, control_refusal
from forebay.api.site import Site
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.core.errors import SetupError
from forebay.core.settings_sources import LoadedSettings, load_settings
from forebay.core.settings_values import unknown_key
from forebay.embedding.classes import check_not_in_instance, model_of_class
from forebay.embedding.keywords import DOTTED, keyword_of
from forebay.models.base import Model
from forebay.repository.catalog import Catalog, NamedModel
from forebay.repository.plans import planner

log = logging.getLogger("forebay")

ModelArgument = str | Path | type[Model] | NamedModel
"""A class, or what the command line takes: `model.onnx`, `file.py:Class`, a repository's folder."""


def catalog_of(models: Sequence[ModelArgument], name: str | None) -> Catalog:
    """The models to serve. Raises `SetupError`."""
    check_not_in_instance()
    arguments: list[str | NamedModel] = []
    for model in models:
        if isinstance(model, type) and issubclass(model, Model):
            arguments.append(model_of_class(model, name))
        elif isinstance(model, str | Path | NamedModel):
            arguments.append(str(model) if isinstance(model, Path) else model)
        else:
            raise SetupError(f"a model is a forebay.Model subclass or a path, not {type(model).__name__}: {model!r}")
    return Catalog.open(arguments, name)


def settings_of(
    given: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]] | None,
    config: str | Path | None,
    environ: Mapping[str, str] | None,
) -> LoadedSettings:
    """Settings as keyword arguments, by the names that flags have. Raises `SetupError`.

    given: `port=9000`, `log_level="warning"`; a model's key is for all models. models: settings by model. config: a
    settings file. environ: whose FOREBAY_ variables count.
    """
    flags: dict[str, object] = {}
    for key, value in given.items():
        if key not in DOTTED:
            raise unknown_key(key, DOTTED, source="keyword argument", kind="setting")
        flags[DOTTED[key]] = list(value) if isinstance(value, tuple) else value
    for model, settings in (models or {}).items():
        flags.update({f"models.{model}.{key}": value for key, value in settings.items()})
    return load_settings(
        config_file=Path(config) if config is not None else None,
        environ=environ or {},
        flags=flags,
        sets=(),
        folder=None,
        flag_source=keyword_of,
    )


def site_of(loaded: LoadedSettings, catalog: Catalog, *, listens: bool = False) -> Site:
    """The site, not started. Raises `SetupError` for settings that are wrong or unsafe.

    listens: it will be served at the settings' host and port, not by another program.
    """
    # Settings are read once more when a model is loaded, and when a Python model's class attributes are known.
    for source in catalog.named:
        loaded.model(source.name, {}, source.sidecar)
    for unserved in loaded.check_models(catalog.first, others_may_come=catalog.may_grow):
        log.warning("%s", unserved)
    server = loaded.settings.server
    keys = Keys.load(server.api_keys, loaded.api_key_lines)
    gate = Gate(keys, Quota(server.requests_per_s, monotonic))
    if listens:
        check_bind(server.host, keys, server.insecure_no_auth)
    refusal = control_refusal(server, keys, listens=listens)
    tree = loaded.settings
    return Site(
        server,
        gate,
        catalog,
        planner(loaded),
        refusal,
        jobs=tree.jobs,
        data_dir=Path(tree.data_dir),
        webhook_secrets=WebhookSecrets.load(loaded.webhook_secret_lines, tree.jobs.webhook_secrets),
    )


def run(loaded: LoadedSettings, catalog: Catalog) -> None:
    """Serve over HTTP until told to stop. Raises `SetupError` where the start fails."""
    from forebay.api.server import Web
    from forebay.telemetry.logs import start_logging

    start_logging(loaded.settings.log)
    site = site_of(loaded, catalog, listens=True)
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(Web(site).serve())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
