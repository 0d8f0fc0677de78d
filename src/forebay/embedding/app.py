"""The server as an ASGI app, and as a function that blocks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

from fastapi import FastAPI
from starlette.applications import Starlette

from forebay.core.errors import SetupError
from forebay.embedding.classes import in_instance
from forebay.embedding.composition import ModelArgument, catalog_of, run, settings_of, site_of
from forebay.embedding.engine import EmbeddedEngine
from forebay.embedding.keywords import python_words
from forebay.embedding.leaving import LastResort


def create_app(
    *models: ModelArgument,
    name: str | None = None,
    config: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    model_settings: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> FastAPI:
    """An ASGI app that serves models; its lifespan loads and ends them. `app.state.engine` is an `EmbeddedEngine`.

    Any ASGI server runs it, without the express lane; `host` and `port` are that server's matter. Mounted into another
    app it needs `lifespan_of`, since Starlette runs the lifespan of the outermost app only. The arguments are those of
    `serve`. Raises `SetupError`; so does the start of the lifespan, where a model does not load.

    It may stand at the top of the file that its class is in: an instance that imports the file gets an empty app.
    """
    if in_instance():
        # No guard could stand there: the ASGI server must find the app in the file by its name.
        return _app_of_an_instance()
    with python_words():
        site = site_of(settings_of(settings, model_settings, config, environ), catalog_of(models, name))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            with python_words():
                await site.start()
            yield
        finally:
            await site.close()

    app = site.app(lifespan)
    app.state.engine = EmbeddedEngine(site)
    return app


def _app_of_an_instance() -> FastAPI:
    """What the rest of a file may refer to, and nobody starts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _refuse()
        yield

    app = FastAPI(lifespan=lifespan)
    app.state.engine = _EngineOfAnInstance()
    return app


class _EngineOfAnInstance:
    """In the place of an `EmbeddedEngine`, which a file may take from its app at once and use later."""

    def __getattr__(self, name: str) -> Any:
        _refuse()


def _refuse() -> NoReturn:
    raise SetupError(
        "this app is that of an instance, which has imported the file of its model; models are served by the process "
        "that has started the instance"
    )


def lifespan_of(*apps: Starlette) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan for the app that these are mounted into: `FastAPI(lifespan=forebay.lifespan_of(models))`."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    return lifespan


def serve(
    *models: ModelArgument,
    name: str | None = None,
    config: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    model_settings: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> None:
    """Serve models over HTTP until SIGTERM or Ctrl-C, as the command does: `forebay.serve(Mlp, port=9000)`.

    models: classes, `model.onnx`, `file.py:Class`, repositories. name: of the one model. config: a settings file.
    environ: whose FOREBAY_ variables count, such as `os.environ`; default none. model_settings: by model, such as
    `{"mlp": {"slo_ms": 50}}`. settings: as the flags are called (`port`, `log_level`); a model's key is for all models.

    Call it under `if __name__ == "__main__":` where the class is in the same file. Raises `SetupError`.
    """
    last_resort = LastResort()
    try:
        with python_words():
            run(settings_of(settings, model_settings, config, environ), catalog_of(models, name), last_resort)
    finally:
        last_resort.cancel()  # what the script does now is its own affair
