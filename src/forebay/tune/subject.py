"""What is tuned: the forms of a model that are named, with all settings that are not for the search to choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from forebay.core.errors import SetupError
from forebay.core.settings_sources import LoadedSettings
from forebay.models.repository import check_no_model, is_repository, read_model, read_repository
from forebay.models.source import ModelSource, digest_of, load_class, open_source
from forebay.optimize.texts import MOST_TOKENS, tokenizer_beside
from forebay.tune.inputs import Tokenizer, rows_of
from forebay.tune.machine import Artefact

TUNED: Final = ("instances", "threads", "max_batch_rows")
"""The settings that are chosen."""
_FORCED: Final = {"cache": "off", "request_log": 0.0, "cascade": "none", "variants": "none"}
"""Others' answers would say nothing about the model, and made-up requests do not belong into a log."""


class Subject(msgspec.Struct, frozen=True):
    """One form of the model, ready to be measured."""

    artefact: Artefact
    settings_file: Path
    """Where its settings are, or would be."""
    overridden: tuple[str, ...]
    """Sources that hold one of the tuned settings and win over that file."""


def open_subject(
    text: str,
    name: str | None,
    loaded: LoadedSettings,
    inputs: str | None,
    shown: Callable[[object, str], str],
    tokenizer: Tokenizer | None = None,
) -> Subject:
    """One form of the model.

    text: as for `forebay serve`, or the folder of one model of a repository (its latest version), or a repository of
    one. name: what it is called; None: its own name. shown: a setting's value as `--set` reads it. tokenizer: None for
    the one beside the model.

    Raises `SetupError`: there is no such model, its settings or inputs are wrong.
    """
    source = source_of(text, name)
    attributes = source.class_attributes()
    settings = loaded.model(source.name, attributes, source.sidecar, in_repository=bool(source.settings_file))
    rows, kind = rows_of(inputs, source)
    argument = argument_of(source)
    # The servers that are measured have it by itself, and what they have learned stands under that name and digest.
    served = open_source(argument, source.name) if source.runtime == "python" else source
    return Subject(
        Artefact(
            source=served,
            digest=digest_of(served),
            settings=settings,
            arguments=(argument, "--name", source.name, *_fixed(source.name, loaded, shown)),
            rows=None if rows is None else tuple(rows),
            kind=kind,
            tokenizer=tokenizer or _beside(Path(source.path)),
        ),
        settings_file=source.sidecar or Path(source.settings_file or Path(source.path).with_suffix(".toml")),
        overridden=_overriding(source, loaded),
    )


def _beside(model: Path) -> Tokenizer | None:
    file = tokenizer_beside(model)
    return None if file is None else Tokenizer(str(file), MOST_TOKENS)


def source_of(text: str, name: str | None) -> ModelSource:
    """A MODEL argument, the folder of one model of a repository, or a repository of one. Raises `SetupError`."""
    if not is_repository(text):
        return open_source(text, name)
    folder = read_model(Path(text).resolve())
    if not folder.versions:
        check_no_model(Path(text))
        models = [one for one in read_repository(Path(text).resolve()).values() if one.versions]
        if len(models) != 1:
            names = ", ".join(str(Path(text) / one.name) for one in models[:5]) or "there is none in it"
            raise SetupError(f"{text} is a repository; name one of its models: {names}")
        (folder,) = models
    if folder.problem:
        raise SetupError(f"{text}: {folder.problem}")
    source = folder.source(max(folder.versions))
    return source if name is None else msgspec.structs.replace(source, name=name)


def argument_of(source: ModelSource) -> str:
    """The model as a MODEL argument by itself."""
    if source.runtime != "python":
        return source.path
    return f"{source.path}:{source.class_name or load_class(source).__name__}"


def _fixed(name: str, loaded: LoadedSettings, shown: Callable[[object, str], str]) -> list[str]:
    """`--set` for every setting that somebody has made, save those that are chosen here and those of the class."""
    given: dict[str, object] = {}
    for key, (value, source) in _settings(name, loaded).items():
        if source != "default" and not source.startswith("class attribute") and key not in TUNED:
            given[key] = value.resolve() if isinstance(value, Path) else value
    return [part for key, value in (given | _FORCED).items() for part in ("--set", f"{name}.{key}={shown(value, key)}")]


def _overriding(source: ModelSource, loaded: LoadedSettings) -> tuple[str, ...]:
    beside = str(source.sidecar) if source.sidecar else None
    weaker = ("default", "class attribute")
    return tuple(
        place
        for key, (_, place) in _settings(source.name, loaded).items()
        if key in TUNED and not place.startswith(weaker) and not (beside and place.startswith(f"{beside}:"))
    )


def _settings(name: str, loaded: LoadedSettings) -> Mapping[str, tuple[object, str]]:
    prefix = f"models.{name}."
    rows = [row for row in loaded.rows() if row.key.startswith(prefix)]
    return {row.key.removeprefix(prefix): (row.value, row.source) for row in rows}
