"""The real world: each configuration is a `forebay serve` of its own, and the project's own generator loads it."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from forebay.batching import Policy
from forebay.bench.bodies import fetch_metadata
from forebay.core.settings import ModelSettings
from forebay.engine.costs_file import CostsFile
from forebay.models.source import ModelSource
from forebay.tune import load
from forebay.tune.configuration import Configuration, Group
from forebay.tune.inputs import Inputs, Row, Tokenizer, build
from forebay.tune.predict import predicted_rate
from forebay.tune.server import Server
from forebay.tune.slo import Slo
from forebay.tune.world import CannotServeError, Look, Probe

MOST_SERVERS: Final = 3
"""That are loaded at a time: those in the finals, so that they can take turns."""
IDLE_S: Final = 0.5
SATURATED_S: Final = 0.7
BURSTS: Final = 3
"""Saturating runs, of which the best counts: what disturbs them makes them slower."""
WARM_S: Final = 0.3
ENOUGH: Final = 300
"""Requests of a probe: a p99 of fewer says little. More for a share nearer to 1, fewer never."""
SPANS: Final = 8
"""A probe is so many times as long as the SLO's bound: a server that is asked for too much misses it only once its
queue has grown so far."""
SHORTEST_S, LONGEST_S = 1.5, 20.0
"""Of a probe."""
FINAL: Final = 2.5
"""So much longer are the probes of the finals."""
MOST_CLIENTS: Final = 64
STARTING_S: Final = 60.0
"""For a start besides the loading of the model."""
QUIET_S: Final = 10.0
"""How long a server that was overloaded may take to answer a single request again."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """One form of the model. `digest`: of its file; `rows`: what to send, None: made up."""

    source: ModelSource
    digest: str
    settings: ModelSettings
    arguments: tuple[str, ...]
    """Of `forebay serve`: the artefact, its name and settings, the tuned ones left out."""
    rows: tuple[Row, ...] | None
    kind: str
    tokenizer: Tokenizer | None = None


class Machine:
    """This machine as `Measures`. Close it: servers may be running."""

    def __init__(
        self, artefacts: dict[str, Artefact], slo: Slo, serve: Sequence[str], folder: Path, *, with_deadline: bool
    ) -> None:
        """serve: the command `forebay serve`. folder: scratch space. with_deadline: requests carry the SLO's bound as
        their timeout."""
        self._artefacts, self._slo, self._serve, self._folder = artefacts, slo, tuple(serve), folder
        self._with_deadline = with_deadline
        self._servers: OrderedDict[Configuration, Server] = OrderedDict()
        self._inputs: dict[str, Inputs] = {}
        self._seed = 0

    def close(self) -> None:
        """End every server."""
        while self._servers:
            self._servers.popitem()[1].stop()

    def look(self, group: Group, caps: Sequence[int]) -> Look:
        """See `Measures`. The server is ended afterwards, so that the costs it has learned are on disk."""
        lead = group.with_cap(max(caps))
        server = self._server(lead)
        inputs = self._inputs_of(group.artefact, server)
        address = (server.endpoint.host, server.endpoint.port)
        patience_s = max(QUIET_S, 4 * self._slo.bound_s)
        idle = load.one_by_one(address, inputs, IDLE_S, patience_s)
        clients = min(MOST_CLIENTS, max(8, 4 * lead.max_batch_rows))
        # Long enough for each client to be answered a few times, within reason.
        seconds = min(2 * SATURATED_S, max(SATURATED_S, 3 * clients * float(np.median(idle)) / group.instances))
        rate = max(load.saturated(address, inputs, clients, seconds, patience_s) for _ in range(BURSTS))
        server.check_alive()
        self._stop(lead)
        return Look(
            fastest_ms=min(idle) * 1e3,
            idle_ms=float(np.quantile(idle, self._slo.share, method="higher")) * 1e3,
            saturated_per_s=rate,
            predicted_per_s=self._predicted(group, caps, inputs),
        )

    def probe(self, configuration: Configuration, rate: float, *, final: bool = False) -> Probe:
        """See `Measures`."""
        server = self._server(configuration)
        inputs = self._inputs_of(configuration.artefact, server)
        address = (server.endpoint.host, server.endpoint.port)
        self._settle(address, inputs)
        wanted = max(ENOUGH, 3 / (1 - self._slo.share))
        seconds = min(LONGEST_S, max(SHORTEST_S, wanted / rate, SPANS * self._slo.bound_s)) * (FINAL if final else 1)
        self._seed += 1
        probe = load.at_rate(address, inputs, rate, seconds, self._slo, self._seed)
        server.check_alive()
        return msgspec.structs.replace(probe, final=final)

    def _settle(self, address: load.Address, inputs: Inputs) -> None:
        """Until what an overloaded probe left behind is done: a server that answers one request has nothing queued."""
        with contextlib.suppress(CannotServeError):
            load.one_by_one(address, inputs, 0.02, QUIET_S)

    def _predicted(self, group: Group, caps: Sequence[int], inputs: Inputs) -> dict[int, float]:
        artefact = self._artefacts[group.artefact]
        costs = CostsFile(self._data_dir(group), artefact.source, artefact.digest, group.threads)
        latency = costs.load(max(caps))
        if len(caps) < 2 or latency is None:
            return {}
        batching = artefact.settings.batching == "auto"
        return {
            rows: predicted_rate(
                latency,
                Policy(max_batch_rows=rows, batching=batching, pad=bool(artefact.settings.pad)),
                group.instances,
                self._slo,
                inputs.lengths,
                with_deadline=self._with_deadline,
            )
            for rows in caps
        }

    def _inputs_of(self, name: str, server: Server) -> Inputs:
        if name not in self._inputs:
            artefact = self._artefacts[name]
            metadata = fetch_metadata(server.endpoint, artefact.source.name)
            timeout_ms = self._slo.bound_ms if self._with_deadline else None
            self._inputs[name] = build(
                metadata, artefact.rows, artefact.kind, timeout_ms=timeout_ms, tokenizer=artefact.tokenizer
            )
        return self._inputs[name]

    # -- servers -----------------------------------------------------------------------------------------------------

    def _data_dir(self, group: Group) -> Path:
        """Configurations that differ in their cap only share what was learned of costs, as a restart does."""
        place = list(self._artefacts).index(group.artefact)
        return self._folder / f"{place}-{group.size}"

    def _server(self, configuration: Configuration) -> Server:
        """The configuration's server, started if it is not up; the one that was asked least lately makes room."""
        server = self._servers.get(configuration)
        if server is not None:
            self._servers.move_to_end(configuration)
            server.check_alive()
            return server
        while len(self._servers) >= MOST_SERVERS:
            self._servers.popitem(last=False)[1].stop()
        artefact = self._artefacts[configuration.artefact]
        name = artefact.source.name
        keys = {
            "instances": configuration.instances,
            "threads": configuration.threads,
            "max_batch_rows": configuration.max_batch_rows,
        }
        settings = [part for key, value in keys.items() for part in ("--set", f"{name}.{key}={value}")]
        folder = self._data_dir(configuration)
        command = [*self._serve, *artefact.arguments, *settings, "--data-dir", str(folder)]
        server = self._servers[configuration] = Server(command, folder, artefact.settings.load_timeout_s + STARTING_S)
        inputs = self._inputs_of(configuration.artefact, server)
        load.one_by_one((server.endpoint.host, server.endpoint.port), inputs, WARM_S, QUIET_S)
        return server

    def _stop(self, configuration: Configuration) -> None:
        self._servers.pop(configuration).stop()
