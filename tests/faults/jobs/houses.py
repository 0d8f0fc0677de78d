"""What a fault test runs against: the real processes, each of which can be killed and brought back."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

import psutil
from redis import Redis
from redis.exceptions import RedisError
from tests.contract.brokers.moto_servers import MotoServer
from tests.contract.brokers.rabbit_nodes import RabbitNode, rabbitmq_url
from tests.contract.jobs.redis_servers import Server, valkey
from tests.e2e.server import COMMAND, Served, eventually, gone, model, quick
from tests.faults.jobs import rigged
from tests.faults.jobs.carriers import Carrier
from tests.faults.jobs.kafka_carriers import KafkaCarrier
from tests.faults.jobs.sqs_carriers import SqsCarrier
from tests.models.tallied import FIRST

Kind = Literal["serve", "serve on a node", "web and worker", "over RabbitMQ", "over SQS", "over Kafka"]
"""serve: one process, with the store that it starts for itself. The others: with a Valkey that the test started. over
RabbitMQ, over SQS, over Kafka: web and worker, whose jobs that carries."""
AnyCarrier = Carrier | SqsCarrier | KafkaCarrier
CARRIED = ("over RabbitMQ", "over SQS", "over Kafka")
Part = Literal["web", "worker"]
"""Who answers HTTP and who runs the model; one process but in the last kind."""
Role = Literal["web", "worker", "instance", "store", "broker"]
BASE = "forebay:{s0}:"
"""What every key of jobs begins with in the store."""
LEASE_S = 2.0
REPUBLISH_AFTER_S = 3.0
"""Where another broker carries the jobs."""
GROUP_S = 20.0
"""How long the workers of a Kafka may take to share its partitions anew after one was killed: its session of 6 s, and
what a Tansu adds."""
START_S = 60.0
MODEL = [*quick(*model("tallied.py", "Tallied"), warm_up_s=0.4)]


def node(**settings: str) -> Server:
    """A Valkey that loses nothing when it is killed; not started."""
    return Server(valkey(), 0, **({"appendonly": "yes", "appendfsync": "always"} | settings))


def _carrier(kind: Kind, rabbit: RabbitNode | None, sqs: MotoServer | None) -> AnyCarrier | None:
    if kind == "over RabbitMQ":
        return Carrier(rabbit.url if rabbit is not None else rabbitmq_url())
    if kind == "over SQS":
        return SqsCarrier(sqs)
    return KafkaCarrier() if kind == "over Kafka" else None


class House:
    """Processes that serve the model `tallied`, and the store that they share. See `house`."""

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        *arguments: str,
        store: Server | None = None,
        worker_url: str = "",
        rig: rigged.Rig | None = None,
        rigs: Part = "worker",
        environ: Mapping[str, str] | None = None,
        lease_s: float = LEASE_S,
        rabbit: RabbitNode | None = None,
        sqs: MotoServer | None = None,
        carrier: AnyCarrier | None = None,
    ) -> None:
        """`store`: a node that runs already; `worker_url`: the worker's way to it, where that is another. `rabbit`: a
        node of RabbitMQ that the test may kill; else it is one that others use too, with queues of its own. `sqs`: the
        same of an SQS. `carrier`: the queues or topics of another house, to share them.
        `rig`: what goes wrong at first in the part that `rigs` names."""
        self.folder, self.kind = folder, kind
        self.apart = kind in CARRIED or kind == "web and worker"
        self.node = store
        self._own_node = None if store is not None or kind == "serve" else node()
        if self._own_node is not None:
            self.node = self._own_node.__enter__()
        self._worker_url = worker_url
        self._arguments = ["--jobs-lease-s", str(lease_s), *arguments]
        self.rabbit = rabbit
        self._shares_carrier = carrier is not None
        self.carrier = carrier or _carrier(kind, rabbit, sqs)
        if self.carrier is not None:
            self._arguments += ["--broker", self.carrier.url, "--jobs-republish-after-s", str(REPUBLISH_AFTER_S)]
        self._environ = dict(environ or {})
        self.values = count(int(FIRST))
        """Values of jobs, each for one of them."""
        self.tally_folder = Path(self._environ.get("FOREBAY_TEST_FOLDER", folder))
        self._ports: dict[Part, int] = {"web": 0, "worker": 0}
        self._served: dict[Part, Served] = {}
        for part in self.parts:
            self.begin(part, rig if part == rigs or not self.apart else None)

    # -- its processes ------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> Sequence[Part]:
        """One for each process."""
        return ("worker", "web") if self.apart else ("web",)

    @property
    def web(self) -> Served:
        """Who answers HTTP."""
        return self._served["web"]

    @property
    def worker(self) -> Served:
        """Who runs the model."""
        return self._served["worker" if self.apart else "web"]

    @property
    def port(self) -> int:
        """Where HTTP is answered, also while nobody does."""
        return self._ports["web"]

    def begin(self, part: Part, rig: rigged.Rig | None = None) -> None:
        """Start a process on the same folder and port as before, without waiting for it."""
        part = part if self.apart else "web"
        without_model = self.apart and part == "web"
        self._served[part] = Served(
            self.folder / "web" if without_model else self.folder,
            *([] if without_model else MODEL),
            *self._arguments,
            *self._where(part),
            port=self._ports[part],
            role=part if self.apart else "serve",
            root=COMMAND if rig is None else rigged.ROOT,
            environ=self._environ | (rigged.environ(rig) if rig is not None else {}),
        )

    def _where(self, part: Part) -> Sequence[str]:
        if self.node is None:
            return ()
        return ("--store", self._worker_url if self._worker_url and part == "worker" else self.node.url)

    def wait_ready(self) -> House:
        """Until all of it takes requests."""
        for part in self.parts:
            self._ports[part] = self._served[part].wait_ready().port
        eventually(self.ready, "the model is served", START_S)
        return self

    def ready(self) -> bool:
        """Whether all of it takes requests."""
        served = self.web
        return self.worker.ready() and served.ready() and served.http.get("/v2/models/tallied/ready").status_code == 200

    def kill_part(self, part: Part) -> None:
        """SIGKILL of a process; what it has started ends with it."""
        served = self.worker if part == "worker" else self.web
        children = served.instances()
        served.process.kill()
        self.ended(part, children)

    def ended(self, part: Part, children: Sequence[psutil.Process] = ()) -> None:
        """It has been killed, or told to end: wait for that, and for the end of its children."""
        served = self.worker if part == "worker" else self.web
        served.process.wait(30)
        gone(children)
        served.close()

    def restart(self, part: Part) -> None:
        """Another process for that part, not rigged; all is ready then."""
        self.begin(part)
        self.wait_ready()

    def store_process(self) -> psutil.Process:
        """The process of the store."""
        if self.node is not None:
            return psutil.Process(self.node.process.pid)
        children = psutil.Process(self.web.process.pid).children()
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

    @property
    def roles(self) -> Sequence[Role]:
        """Whom `kill` can kill."""
        broker: tuple[Role, ...] = () if self.rabbit is None else ("broker",)
        return (*self.parts, "instance", "store", *broker)

    def kill(self, role: Role) -> None:
        """SIGKILL of one process, and what an operator does then: start it again. Returns when all is ready again."""
        if role == "instance":
            if found := self.worker.instances():
                found[0].kill()
                gone(found[:1])
        elif role == "store":
            self.kill_store()
            if self.node is not None:
                self.node.start()
            self.wait_store()
        elif role == "broker":
            assert self.rabbit is not None
            self.rabbit.kill()
            self.rabbit.start()
        else:
            self.kill_part(role)
            self.begin(role)
            self.wait_ready()
        eventually(self.ready, f"all is ready after the death of the {role}", START_S)

    # -- the store ----------------------------------------------------------------------------------------------------

    def wait_store(self) -> None:
        """Until the store answers again."""

        def answers() -> bool:
            try:
                self.ask("PING")
            except (RedisError, OSError):
                return False
            return True

        eventually(answers, "the store answers", START_S)

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

    def running(self) -> list[str]:
        """Ids of the jobs that somebody has claimed, as the store has them."""
        return [str(uuid.UUID(bytes=member)) for member in self.ask("ZRANGE", f"{BASE}r:tallied", 0, -1)]

    def started(self) -> House:
        """The store that the server starts for itself is up, which it is from the first use on."""
        if self.node is None:
            eventually(lambda: self.web.http.get("/v1/jobs").status_code == 200, "there is a store")
        return self

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

    def metric(self, name: str, part: Part = "worker", **labels: str) -> float:
        """A sample of `/metrics`, summed over the labels that are not given."""
        served = self.worker if part == "worker" else self.web
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = served.http.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found if all(word in line for word in wanted))

    def close(self, *, well: bool) -> None:
        """End everything. `well`: those that run must stop well."""
        try:
            if well and isinstance(self.carrier, SqsCarrier) and not self._shares_carrier:
                # What somebody held who was killed comes again when its lease has ended, and is dropped then.
                eventually(self.carrier.is_empty, "nothing is held of what is done", START_S)
            for part in reversed(self.parts):
                if well and self._served[part].process.poll() is None:
                    self._served[part].stop()
            if well and self.carrier is not None and not self._shares_carrier:
                assert self.carrier.left() == {}, "nothing waits, nothing is dead, nothing was not acked"
        finally:
            for served in self._served.values():
                served.close()
            if self._own_node is not None:
                self._own_node.__exit__(None, None, None)


@contextlib.contextmanager
def house(folder: Path, kind: Kind = "serve", *arguments: str, **options: Any) -> Iterator[House]:
    """A house that is ready, its store too; at the end its processes must stop well."""
    found = House(folder, kind, *arguments, **options)
    well = False
    try:
        yield found.wait_ready().started()
        well = True
    finally:
        found.close(well=well)


@contextlib.contextmanager
def second(found: House, name: str = "second", clock_s: float = 0.0) -> Iterator[House]:
    """Others of the same kind on the same store, whose runs stand on the same tally."""
    environ = {"FOREBAY_TEST_FOLDER": str(found.folder)}
    rig: rigged.Rig | None = {"clock_s": clock_s} if clock_s else None
    with house(
        found.folder / name, found.kind, store=found.node, rig=rig, environ=environ, carrier=found.carrier
    ) as other:
        yield other
