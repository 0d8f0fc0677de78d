"""From models and settings to a site: what the command line and the Python functions share.

Neither the environment nor a file is looked for here: who calls says which count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from forebay.api.auth import Gate, Keys, Quota, check_bind, control_refusal
from forebay.api.site import Site
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.brokers.opening import carrier_of
from forebay.core.errors import SetupError
from forebay.core.settings import JobSettings
from forebay.core.settings_sources import LoadedSettings, load_settings
from forebay.core.settings_values import unknown_key
from forebay.embedding.classes import check_not_in_instance, model_of_class
from forebay.embedding.keywords import DOTTED, keyword_of
from forebay.embedding.leaving import CLOSE_S, LEFT_S, LastResort
from forebay.models.base import Model
from forebay.repository.catalog import Catalog, NamedModel
from forebay.repository.plans import planner

log = logging.getLogger("forebay")

OnStop = Callable[[], object]
"""Called once a server is told to stop."""
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
    folder: Path | None = None,
) -> LoadedSettings:
    """Settings as keyword arguments, by the names that flags have. Raises `SetupError`.

    given: `port=9000`, `log_level="warning"`; a model's key is for all models. models: settings by model. config: a
    settings file. environ: whose FOREBAY_ variables count. folder: where `forebay.toml` is looked for; None: nowhere.
    """
    flags: dict[str, object] = {}
    for key, value in given.items():
        if key not in DOTTED:
            raise unknown_key(key, DOTTED, source="keyword argument", kind="setting")
        flags[DOTTED[key]] = list(value) if isinstance(value, tuple) else _word(value)
    if not isinstance(models, Mapping | None):
        raise SetupError(
            f'model_settings must be settings by model, such as {{"mlp": {{"slo_ms": 50}}}}, not {models!r}'
        )
    for model, settings in (models or {}).items():
        if not isinstance(settings, Mapping):
            raise SetupError(f"model_settings[{model!r}] must be settings by name, not {settings!r}")
        flags.update({f"models.{model}.{key}": _word(value) for key, value in settings.items()})
    return load_settings(
        config_file=Path(config) if config is not None else None,
        environ=environ or {},
        flags=flags,
        sets=(),
        folder=folder,
        flag_source=keyword_of,
    )


def _word(value: object) -> object:
    """As a command line has it, where None is what was not given."""
    return "none" if value is None else value


def site_of(
    loaded: LoadedSettings,
    catalog: Catalog,
    *,
    listens: bool = False,
    alone: bool = False,
    webhooks: bool = True,
    seeks_near: bool = True,
) -> Site:
    """The site, not started. Raises `SetupError` for settings that are wrong or unsafe.

    listens: it will be served at the settings' host and port, not by another program. alone: there are no jobs
    here, whatever the store, and settings may be of models that are served elsewhere. webhooks: they are called here.
    seeks_near: texts get the answers to near ones here, for models that want that.
    """
    # Settings are read once more when a model is loaded, and when a Python model's class attributes are known.
    for source in catalog.named:
        loaded.model(source.name, {}, source.sidecar)
    if not alone:
        for unserved in loaded.check_models(catalog.first, others_may_come=catalog.may_grow):
            log.warning("%s", unserved)
    check_broker(loaded.settings.jobs)
    server = loaded.settings.server
    keys = Keys.load(server.api_keys, loaded.api_key_lines)
    gate = Gate(keys, Quota(server.requests_per_s, monotonic))
    if listens:
        check_bind(server.host, keys, server.insecure_no_auth)
    refusal = control_refusal(server, keys, listens=listens)
    tree = loaded.settings
    jobs = tree.jobs
    if not listens and jobs.private_webhooks == "auto":
        # Who can call is for the program to know that listens.
        jobs = msgspec.structs.replace(jobs, private_webhooks="off")
    secrets = webhook_secrets(loaded) if webhooks else None
    data_dir = Path(tree.data_dir)
    return Site(
        server,
        gate,
        catalog,
        planner(loaded),
        refusal,
        jobs=None if alone else jobs,
        cache=tree.cache,
        data_dir=data_dir,
        webhook_secrets=secrets,
        seeks_near=seeks_near,
    )


def webhook_secrets(loaded: LoadedSettings) -> WebhookSecrets:
    """What webhooks are signed with, if anything. Raises `SetupError`."""
    return WebhookSecrets.load(loaded.webhook_secret_lines, loaded.settings.jobs.webhook_secrets)


def run(loaded: LoadedSettings, catalog: Catalog, last_resort: LastResort | None = None) -> None:
    """Serve over HTTP until told to stop. Raises `SetupError` where the start fails.

    Once it is told to stop the process has to end soon, unless the caller gives a `last_resort` and cancels it.
    """
    from forebay.api.server import Web
    from forebay.telemetry.logs import start_logging

    start_logging(loaded.settings.log)
    site = site_of(loaded, catalog, listens=True)
    _until_stopped(lambda on_stop: Web(site, on_stop).serve(), loaded, last_resort)


def run_web(loaded: LoadedSettings) -> None:
    """Serve what workers have over HTTP until told to stop. Raises `SetupError` where the start fails."""
    from forebay.api.server import Web
    from forebay.api.web_site import WebSite
    from forebay.telemetry.logs import start_logging

    settings = loaded.settings
    store = store_of(settings.jobs, "forebay web")
    check_broker(settings.jobs)
    start_logging(settings.log)
    server = settings.server
    keys = Keys.load(server.api_keys, loaded.api_key_lines)
    check_bind(server.host, keys, server.insecure_no_auth)
    gate = Gate(keys, Quota(server.requests_per_s, monotonic))
    secrets = webhook_secrets(loaded)

    async def serve(on_stop: OnStop) -> None:
        await Web(WebSite(server, gate, settings.jobs, settings.cache, store, secrets), on_stop).serve()

    _until_stopped(serve, loaded)


def run_worker(loaded: LoadedSettings, catalog: Catalog, *, listens: bool) -> None:
    """Work off jobs and calls until told to stop; `listens`: health and metrics are told at the settings' host and
    port. Raises `SetupError` where the start fails."""
    from forebay.api.worker_server import WorkerProcess
    from forebay.api.worker_site import WorkerSite
    from forebay.telemetry.logs import start_logging

    settings = loaded.settings
    store = store_of(settings.jobs, "forebay worker")
    if listens:
        keys = Keys.load(settings.server.api_keys, loaded.api_key_lines)
        check_bind(settings.server.host, keys, settings.server.insecure_no_auth)
    start_logging(settings.log)

    async def work(on_stop: OnStop) -> None:
        address = (settings.server.host, settings.server.port) if listens else None
        await WorkerProcess(
            WorkerSite(site_of(loaded, catalog, webhooks=False, seeks_near=False), store), address, on_stop
        ).serve()

    _until_stopped(work, loaded)


def _until_stopped(
    serve: Callable[[OnStop], Coroutine[Any, Any, None]], loaded: LoadedSettings, last_resort: LastResort | None = None
) -> None:
    """Run a server, which tells when it is told to stop: from then on no thread keeps the process from ending."""
    last = last_resort or LastResort()
    drain_s = loaded.settings.server.drain_timeout_s

    async def closed() -> None:
        await serve(lambda: last.within(drain_s + CLOSE_S))
        last.within(LEFT_S)

    try:
        with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(closed())
    except BaseException:
        last.exit_code = 1
        raise


def store_of(jobs: JobSettings, command: str) -> str:
    """The URL of the store that web processes and workers share. Raises `SetupError` where none is named."""
    if jobs.store is None:
        raise SetupError(
            f"{command} needs a store that its workers and web processes share: --store redis://HOST:PORT "
            "(Redis or Valkey from 7.2); forebay serve needs none, it runs everything on one machine"
        )
    return jobs.store


def check_broker(jobs: JobSettings) -> None:
    """Raises `SetupError` for a broker that is neither the store nor of a known kind, or whose library is missing."""
    if jobs.broker is not None and jobs.broker != jobs.store:
        carrier_of(jobs.broker)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
