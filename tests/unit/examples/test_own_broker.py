"""What docs/own-broker.md promises of its example beyond the contract of brokers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from examples.own_broker.forebay_sqlite import SqliteBroker

from forebay.brokers.port import Message
from forebay.core.errors import DependencyError, SetupError


async def test_to_publish_nothing_asks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    broker = SqliteBroker(f"sqlite-queue://{path}")
    assert list(await broker.publish([])) == []
    assert not path.exists()
    await broker.publish([Message("1", "q", b"x")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert list(await broker.publish([])) == []
    other.close()
    await broker.close()


@pytest.mark.parametrize("name", ["missing/jobs.db", "notes.txt"])
async def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("no database " * 100)
    broker = SqliteBroker(f"sqlite-queue://{tmp_path / name}")
    with pytest.raises(SetupError, match=r"is its folder there\?"):
        await broker.check()
    await broker.close()


async def test_a_file_that_somebody_else_writes_does_not_end_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.own_broker.forebay_sqlite.BUSY_S", 0.01)
    broker = SqliteBroker(f"sqlite-queue://{tmp_path / 'jobs.db'}")
    assert (await broker.check()).startswith("SQLite ")
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DependencyError, match="locked"):
        await broker.check()
    other.close()
    await broker.close()
