"""The folder that an embedded Valkey keeps jobs in: who may use it, where its socket is, what its log says."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path

from forebay.core.errors import SetupError

LOCK_FILE, LOG_FILE, SOCKET_FILE = "lock", "valkey.log", "valkey.sock"
SOCKET_PATH_BYTES = 103
"""Longest path that a socket may have on every system (Linux takes 107)."""

AOF_FOLDER = "appendonlydir"
AOF_MANIFEST = "appendonly.aof.manifest"
"""Valkey's own names."""
_LOG_BYTES = 1 << 20
_LOCK_S = 10.0
_LOCK_POLL_S = 0.05
_LAST_LINES = 8
_LAST_BYTES = 4096


class JobFolder:
    """`DATA_DIR/jobs`. `lock_fd` is the open lock while it is held, else -1."""

    def __init__(self, data_dir: Path) -> None:
        self.path = Path(os.path.abspath(data_dir)) / "jobs"
        self.socket = self._socket()
        self.log = self.path / LOG_FILE
        self.lock_fd = -1
        self._log_from = 0

    def _socket(self) -> Path:
        """In the folder; where its path is too long for a socket, in a folder of its own in the temporary one."""
        inside = self.path / SOCKET_FILE
        if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
            return inside
        name = f"forebay-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"
        return Path(tempfile.gettempdir()) / name / SOCKET_FILE

    @property
    def socket_argument(self) -> str:
        """The socket as Valkey, which runs in the folder, is told of it."""
        return SOCKET_FILE if self.socket.parent == self.path else str(self.socket)

    def has_data(self) -> bool:
        """Whether a store has ever written here."""
        return os.path.isdir(self.path / AOF_FOLDER)  # Path's raises where the name is too long

    def is_whole(self) -> bool:
        """Whether what is held locked is still here, and jobs in it. Blocking."""
        try:
            locked = os.path.samestat(os.stat(self.path / LOCK_FILE), os.fstat(self.lock_fd))
        except OSError as error:
            return not isinstance(error, FileNotFoundError | NotADirectoryError)
        return locked and (self.path / AOF_FOLDER / AOF_MANIFEST).exists()

    def is_in_use(self) -> bool:
        """Whether a Valkey that runs here can be reached, and writes where the next one would read. Blocking."""
        return self.is_whole() and self.socket.exists()

    def prepare(self) -> None:
        """Make what is missing. Blocking. Raises `SetupError` where the folder cannot be written or the socket not
        be placed."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.path / f"probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise self._not_writable(error) from None
        if self.socket.parent != self.path:
            self._prepare_socket_folder(self.socket.parent)

    def _not_writable(self, error: OSError) -> SetupError:
        reason = error.strerror or str(error)
        return SetupError(f"jobs cannot be kept in {self.path}: {reason}; make it writable, or give another --data-dir")

    def _prepare_socket_folder(self, folder: Path) -> None:
        mend = "; set TMPDIR to a folder of your own with a short path, or give a --data-dir with a shorter one"
        if len(os.fsencode(self.socket)) > SOCKET_PATH_BYTES:
            raise SetupError(f"the socket path {self.socket} has more than {SOCKET_PATH_BYTES} bytes{mend}")
        try:
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
        except OSError as error:
            raise SetupError(f"{folder} for the socket of jobs: {error.strerror or error}{mend}") from None
        # Others may write to the temporary folder and could have been there first.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise SetupError(f"{folder} for the socket of jobs is not a folder that only you can use{mend}")

    async def lock(self) -> None:
        """Take the folder for this process and the Valkey that inherits `lock_fd`.

        A holder that has ended is waited for: its Valkey is about to end too. Raises `SetupError` where another lives.
        """
        try:
            fd = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._not_writable(error) from None
        try:
            end_s = time.monotonic() + _LOCK_S
            while not _locked(fd):
                holder = _holder(fd)
                if _lives(holder) or time.monotonic() > end_s:
                    raise self._in_use(holder)
                await asyncio.sleep(_LOCK_POLL_S)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BaseException:
            os.close(fd)
            raise
        self.lock_fd = fd

    def _in_use(self, holder: int) -> SetupError:
        who = f"process {holder}" if _lives(holder) else "a process that is not known"
        return SetupError(
            f"the jobs in {self.path} are in use by {who}; stop it, or give another --data-dir "
            "(several servers share jobs through --store)"
        )

    def unlock(self) -> None:
        """Let others have the folder, once Valkey has ended too."""
        if self.socket.parent != self.path:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def open_log(self) -> int:
        """The log, opened to be added to; a long one becomes `valkey.log.1`. Raises `SetupError`."""
        try:
            with contextlib.suppress(FileNotFoundError):
                if self.log.stat().st_size > _LOG_BYTES:
                    self.log.replace(self.log.with_name(f"{LOG_FILE}.1"))
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._not_writable(error) from None
        self._log_from = os.fstat(fd).st_size
        return fd

    def last_words(self) -> str:
        """The last lines of the log since it was opened, indented, for an error."""
        try:
            with self.log.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(self._log_from, size - _LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            lines = [f"(cannot be read: {error.strerror or error})"]
        return "".join(f"\n  {line}" for line in lines[-_LAST_LINES:]) or " nothing"


def _locked(fd: int) -> bool:
    import fcntl  # Windows has none; it was refused before this.

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(fd: int) -> int:
    """The process that took the lock last; 0: not known."""
    try:
        return int(os.pread(fd, 32, 0))
    except (OSError, ValueError):
        return 0


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
