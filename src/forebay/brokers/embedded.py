"""A Valkey of our own for jobs: started when they are first used, kept alive, ended with us.

It listens on a Unix socket in the data folder, which one process may use at a time, and writes every change to a file
there before it confirms it. What that promises: nothing is lost when any process dies; a power cut may lose the last
second, unless the durability is `always`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

from forebay.brokers.embedded_folder import JobFolder
from forebay.brokers.embedded_process import Durability, ValkeyProcess, find_binary
from forebay.brokers.embedded_sync import AofSync
from forebay.core.errors import SetupError
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

State = Literal["stopped", "starting", "loading", "ready", "down"]
"""starting: no answer yet. loading: it reads its file. down: it has died and is started again in a moment."""

_SILENT_S = 30.0
_STOP_S = 10.0
_POLL_S = 0.01
_LOADING_POLL_S = 0.2
_PROGRESS_S = 5.0
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0
_HEALTHY_S = 1.0
_FOLDER_EVERY_S = 1.0
"""How often it is looked whether the folder is there: without it, what is accepted is written nowhere."""


class EmbeddedValkey:
    """The Valkey of one data folder. All calls are made on one event loop, whose thread must live as long as Valkey is
    to live. `async with` starts and stops it."""

    def __init__(self, data_dir: Path, durability: Durability = "everysec") -> None:
        self.state: State = "stopped"
        self._folder = JobFolder(data_dir)
        self._durability: Durability = durability
        self._process: ValkeyProcess | None = None
        self._sync: AofSync | None = None
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where to reach it, from the beginning and whatever happens to it: `unix:///…/valkey.sock`."""
        return f"unix://{quote(str(self._folder.socket))}"

    def has_jobs(self) -> bool:
        """Whether an earlier process has left anything in the folder."""
        return self._folder.has_data()

    @property
    def pid(self) -> int:
        """The id of its process; 0 while there is none."""
        return self._process.pid if self._process is not None and not self._process.ended.done() else 0

    async def __aenter__(self) -> EmbeddedValkey:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it, unless that was done, and wait until it answers; where there is much to read from the disk, that
        takes long (`state` is `loading` then). Canceling the call cancels only the waiting.

        Raises `SetupError` where it cannot be started, with what it said; another call tries again.
        """
        if self._watching is not None:
            return
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="embedded valkey: start")
            self._starting.add_done_callback(self._started)
        starting = self._starting
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled():
                raise SetupError("the store of jobs was stopped while it was being started") from None
            raise

    def _started(self, done: asyncio.Task[None]) -> None:
        if self._starting is done:
            self._starting = None
        if not done.cancelled():
            done.exception()  # Whoever waits is told; it is no unseen error where nobody does.

    async def _start(self) -> None:
        binary = await asyncio.to_thread(find_binary)
        async with self._turn:
            await self._begin(binary)
            self._watching = asyncio.create_task(self._watch(binary), name="embedded valkey: watch")
        log.info("the store of jobs is ready", extra=fields(pid=self.pid, file=str(self._folder.path)))

    async def _begin(self, binary: Path) -> None:
        """Take the folder, made where there is none, and start a process on it. Raises `SetupError`."""
        await asyncio.to_thread(self._folder.prepare)
        await self._folder.lock()
        try:
            self._process = await self._launch(binary)
        except BaseException:
            self._folder.unlock()
            self.state = "stopped"
            raise
        if self._durability == "everysec":
            self._sync = AofSync(self._folder.path)
            self._sync.start()

    async def _leave_folder(self) -> None:
        if self._sync is not None:
            await asyncio.to_thread(self._sync.stop)
            self._sync = None
        self._folder.unlock()

    async def stop(self) -> None:
        """End it, within seconds, with all that it has confirmed on the disk. It may be started again."""
        for pending in (self._starting, self._watching):
            if pending is not None:
                pending.cancel()
                await asyncio.wait({pending})
        async with self._turn:
            self._watching = None
            if self._process is not None:
                died = self._process.ended.done()
                code = await self._process.stop(_STOP_S)
                if code and not died:
                    log.warning("the store of jobs did not end by itself", extra=fields(exit_code=code))
                self._process = None
            await self._leave_folder()
            self.state = "stopped"

    async def _launch(self, binary: Path) -> ValkeyProcess:
        """A process that answers. Raises `SetupError`; then there is no process."""
        self.state = "starting"
        process = ValkeyProcess(binary, self._folder, self._durability)
        try:
            await self._until_ready(process)
        except BaseException:
            await process.kill()
            raise
        self.state = "ready"
        return process

    async def _until_ready(self, process: ValkeyProcess) -> None:
        loop = asyncio.get_running_loop()
        heard_s, told_s, wait_s = loop.time(), loop.time(), _POLL_S
        while not process.ended.done():
            answer = ""
            with contextlib.suppress(OSError):
                answer = await process.ask("PING")
            if answer.startswith("-LOADING"):
                self.state, wait_s, heard_s = "loading", _LOADING_POLL_S, loop.time()
                if loop.time() - told_s > _PROGRESS_S:
                    told_s = loop.time()
                    await self._tell_progress(process)
            elif answer:
                return
            elif loop.time() - heard_s > _SILENT_S:
                raise SetupError(f"the store of jobs has not answered for {_SILENT_S:g} s; {self._what_it_said()}")
            await asyncio.wait({process.ended}, timeout=wait_s)
        ending = _ending(process.ended.result())
        raise SetupError(f"the store of jobs {ending} while it was being started; {self._what_it_said()}")

    def _what_it_said(self) -> str:
        return f"the last of its log {self._folder.log}:{self._folder.last_words()}"

    async def _tell_progress(self, process: ValkeyProcess) -> None:
        with contextlib.suppress(OSError):
            lines = (await process.ask("INFO persistence")).splitlines()
            info = dict(line.split(":", 1) for line in lines if ":" in line)
            log.info(
                "jobs are being read from the disk: %s %%, about %s s to go",
                info.get("loading_loaded_perc", "?"),
                info.get("loading_eta_seconds", "?"),
                extra=fields(file=str(self._folder.path), size_bytes=int(info.get("loading_total_bytes", "0"))),
            )

    async def _watch(self, binary: Path) -> None:
        """Start it again whenever it dies, at once the first time, later more slowly where it does not last; on a new
        folder where its own was taken away."""
        loop = asyncio.get_running_loop()
        backoff_s = _FIRST_BACKOFF_S
        while True:
            since_s = loop.time()
            assert self._process is not None
            code = await self._until_ended(self._process)
            self.state = "down"
            log.error(
                "the store of jobs %s; it is started again",
                _ending(code),
                extra=fields(pid=self._process.pid, exit_code=code, reason=self._what_it_said()),
            )
            backoff_s = _FIRST_BACKOFF_S if loop.time() - since_s > _HEALTHY_S else backoff_s
            while True:
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
                try:
                    await self._begin_again(binary)
                    break
                except Exception as error:
                    self.state = "down"
                    log.error(
                        "the store of jobs cannot be started; that is tried again", extra=fields(reason=str(error))
                    )
            log.info("the store of jobs is ready again", extra=fields(pid=self.pid))

    async def _until_ended(self, process: ValkeyProcess) -> int:
        """Its exit code. It is ended where its folder was taken away: what it goes on to confirm is on no disk."""
        while not process.ended.done():
            await asyncio.wait({process.ended}, timeout=_FOLDER_EVERY_S)
            if not process.ended.done() and not await asyncio.to_thread(self._folder.is_in_use):
                log.error("the folder of jobs was taken away, or its socket", extra=fields(file=str(self._folder.path)))
                self.state = "down"
                await process.kill()
        return process.ended.result()

    async def _begin_again(self, binary: Path) -> None:
        if self._folder.lock_fd >= 0:
            if await asyncio.to_thread(self._folder.is_whole):
                await asyncio.to_thread(self._folder.prepare)
                self._process = await self._launch(binary)
                return
            if not self._folder.has_data():
                log.error("all jobs are lost; a new folder is begun", extra=fields(file=str(self._folder.path)))
            await self._leave_folder()
        await self._begin(binary)


def _ending(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
