"""docs/settings.md says of every key what the tree says."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from forebay.cli.flags import shown_value
from forebay.core.settings import CacheSettings, JobSettings, LogSettings, ModelSettings, ServerSettings, Settings
from forebay.core.settings_values import CACHE_KEYS, JOB_KEYS, LOG_KEYS, MODEL_KEYS, ROOT_KEYS, SERVER_KEYS, Key

DOC = Path(__file__).parents[3] / "docs" / "settings.md"
ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|")
SECTIONS = {
    "Server": SERVER_KEYS,
    "Log": LOG_KEYS,
    "Jobs": JOB_KEYS,
    "Cache": CACHE_KEYS,
    "Folder": ROOT_KEYS,
    "Models": MODEL_KEYS,
}


@pytest.mark.parametrize("title", SECTIONS)
def test_doc_table_is_the_tree(title: str) -> None:
    section = DOC.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    assert ROW.findall(section) == [_row(key) for key in SECTIONS[title].values()]


def _row(key: Key) -> tuple[str, str, str, str]:
    return key.name, key.accepted, shown_value(key.default, key.name), key.meaning


def test_every_field_of_the_tree_is_a_key() -> None:
    trees = (
        (ServerSettings, SERVER_KEYS),
        (LogSettings, LOG_KEYS),
        (JobSettings, JOB_KEYS),
        (CacheSettings, CACHE_KEYS),
        (ModelSettings, MODEL_KEYS),
    )
    for tree, keys in trees:
        assert list(keys) == [field.name for field in msgspec.structs.fields(tree)]
    assert {"server", "log", "jobs", "cache", "models", *ROOT_KEYS} == {
        field.name for field in msgspec.structs.fields(Settings)
    }
