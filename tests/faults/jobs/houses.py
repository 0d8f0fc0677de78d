"""What a fault test runs against: the real processes, each of which can be killed and brought back."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
from redis import Redis
from redis.exceptions import RedisError
from tests.contract.jobs.redis_servers import Server, valkey
from tests.e2e.server import COMMAND, Served, eventually, gone, model, quick

Kind = Literal["serve", "serve on a node"]
"""serve: one process, with the store that it starts for itself. on a node: with a Valkey that the test started."""
Role = Literal["server", "instance", "store"]
BASE = "forebay:{s0}:"
"""What every key of jobs begins with in the store."""
LEASE_S = 2.0
START_S = 60.0


def node(**settings: str) -> Server:
    """A Valkey that loses nothing when it is killed; not started."""
    return Server(valkey(), 0, **({"appendonly": "yes", "appendfsync": "always"} | settings))


class House:
    """Servers of the model `tallied`, and the store that they share. Closed at the end of `house(...)`."""

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        *arguments: str,
        store: Server | None = None,
        root: Sequence[str] = COMMAND,
        environ: Mapping[str, str] | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        """`store`: a node that runs already. `root`, `environ`: as in `Served`."""
        self.folder = folder
        self.kind = kind
        self.node = store
        self._own_node = None if store is not None or kind == "serve" else node()
        if self._own_node is not None:
            self.node = self._own_node.__enter__()
        where = ["--store", self.node.url] if self.node is not None else []
        self._arguments = [
            *quick(*model("tallied.py", "Tallied"), warm_up_s=0.4),
            "--jobs-lease-s",
            str(lease_s),
            *where,
            *arguments,
        ]
        self._root, self._environ = root, environ
        self._port = 0
        self.begin()

    # -- the server ---------------------------------------------------------------------------------------------------

    def begin(self, *, root: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> None:
        """Start the server process on the same folder and port as before, without waiting for it."""
        self.served = Served(
            self.folder,
            *self._arguments,
            port=self._port,
            root=root or self._root,
            environ=self._environ if environ is None else environ,
        )

    def wait_ready(self) -> House:
        """Until it takes requests."""
        self.served.wait_ready()
        self._port = self.served.port
        return self

    @property
    def port(self) -> int:
        """Where it listens, also while it is down."""
        return self._port

    def kill_server(self) -> None:
        """SIGKILL of the server process; what it has started ends with it."""
        children = self.served.instances()
        self.served.process.kill()
        self.ended(children)

    def ended(self, children: Sequence[psutil.Process] = ()) -> None:
        """It has been killed: wait for its end, and for that of its children."""
        self.served.process.wait(30)
        gone(children)
        self.served.close()

    def restart(self) -> None:
        """Another server process, as ordered, on the same folder and port."""
        self.begin(root=COMMAND, environ={})
        self.wait_ready()

    # -- kills --------------------------------------------------------------------------------------------------------

    def kill(self, role: Role) -> None:
        """SIGKILL of one process, and what an operator does then: start it again. Returns when all is ready again."""
        if role == "server":
            self.kill_server()
            self.restart()
        elif role == "instance":
            if found := self.served.instances():
                found[0].kill()
                gone(found[:1])
        else:
            self.kill_store()
            if self.node is not None:
                self.node.start()
            self.wait_store()
        eventually(self.served.ready, f"the server is ready after the death of the {role}", START_S)

    def store_process(self) -> psutil.Process:
        """The process of the store."""
        if self.node is not None:
            return psutil.Process(self.node.process.pid)
        children = psutil.Process(self.served.process.pid).children()
        (found,) = [child for child in children if child.name().startswith("valkey")]
        return found

    def kill_store(self) -> None:
        """SIGKILL of the store. One that the server has started is started again by it."""
        victim = self.store_process()
        if self.node is not None:
            self.node.kill()
        else:
            victim.kill()
            gone([victim])

    def wait_store(self) -> None:
        """Until the store answers again."""

        def answers() -> bool:
            try:
                self.ask("PING")
            except (RedisError, OSError):
                return False
            return True

        eventually(answers, "the store answers", START_S)

    # -- the store ----------------------------------------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        """Of the store."""
        return self.node.socket if self.node is not None else self.folder / ".forebay" / "jobs" / "valkey.sock"

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A connection to the store."""
        with Redis(unix_socket_path=str(self.socket), socket_timeout=10.0) as client:
            yield client

    def ask(self, *words: str | int | bytes) -> Any:
        """One command to the store."""
        with self.client() as client:
            return client.execute_command(*words)

    def started(self) -> House:
        """The store that the server starts for itself is up, which it is from the first job on."""
        if self.node is None:
            eventually(lambda: self.served.http.get("/v1/jobs").status_code == 200, "there is a store")
        return self

    def running(self) -> list[str]:
        """Ids of the jobs that somebody has claimed, as the store has them."""
        return [str(uuid.UUID(bytes=member)) for member in self.ask("ZRANGE", f"{BASE}r:tallied", 0, -1)]

    # -- the model ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """While within, every run waits; what is yielded lets them go on."""
        file = self.folder / "hold"
        file.touch()
        try:
            yield lambda: file.unlink(missing_ok=True)
        finally:
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """End everything; a server that runs must stop well."""
        try:
            if self.served.process.poll() is None:
                self.served.stop()
        finally:
            self.served.close()
            if self._own_node is not None:
                self._own_node.__exit__(None, None, None)


@contextlib.contextmanager
def house(folder: Path, kind: Kind = "serve", *arguments: str, **options: Any) -> Iterator[House]:
    """A house whose server and store are ready."""
    found = House(folder, kind, *arguments, **options)
    try:
        yield found.wait_ready().started()
    finally:
        found.close()
