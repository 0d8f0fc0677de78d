"""Training of students that are torch modules: one loop for all of them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.export import write_module
from forebay.distill.losses import TorchLoss, check_losses, usual_losses
from forebay.distill.measures import agreement
from forebay.distill.report import Epoch
from forebay.distill.stopping import Stopping
from forebay.distill.students.port import Module, Plan, Subject, Told, Trained
from forebay.distill.target import finished
from forebay.distill.transfer import Part
from forebay.models.signature import TensorSpec
from forebay.optimize.samples import Row, batch_of, length_of
from forebay.optimize.sources.torch_module import quiet

_WINDOW = 32
"""So many batches are put in order by length together, so that rows of a batch need little padding."""
_ANSWERED = 256
"""Rows of a batch where nothing is trained."""
ONNX_FILE = "model.onnx"


class Network(Protocol):
    """A module that is to be trained, and how rows become its tensors."""

    about: str
    rate: float
    batch: int
    epochs: int
    """What suits it, unless the plan says otherwise."""
    tensors: Sequence[TensorSpec]
    """What `forward` takes by name, after `prepare`; it gives raw values [rows, width]."""

    def made(self, rows: Sequence[Row]) -> Module:
        """The module, with its first weights. rows: what it will be trained on, not prepared."""
        ...

    def prepare(self, rows: Sequence[Row]) -> list[Row]:
        """Rows as the module's tensors, of one row each."""
        ...

    def write(self, folder: Path, graph: str) -> str:
        """What goes beside the ONNX file `graph`, which is there already; the name of the file that is served."""
        ...


class NeuralStudent:
    """See `Student`."""

    def __init__(self, network: Network, subject: Subject, plan: Plan) -> None:
        import torch

        self._torch = torch
        self._network, self._subject, self._plan = network, subject, plan
        self.losses = dict(plan.losses) or usual_losses(subject.target)
        self.about, self.parameters = network.about, 0
        self._module: Module = None
        self._seen: list[Row] = []

    def fit(self, train: Part, stop: Part, told: Told) -> Trained:
        """See `Student.fit`. The same seed gives the same student, on one machine and with as many threads."""
        torch, plan = self._torch, self._plan
        check_losses(self.losses, self._subject.target, labelled=bool((train.labels >= 0).any()))
        torch.manual_seed(plan.seed)
        torch.set_num_threads(plan.threads)
        module = self._module = self._network.made(train.rows)
        self.about = self._network.about
        self.parameters = sum(value.numel() for value in module.parameters())
        rows, held = _Rows(self._network.prepare(train.rows)), _Rows(self._network.prepare(stop.rows))
        self._seen = rows.first()
        batch = plan.batch or self._network.batch
        most = plan.epochs or self._network.epochs
        steps = max(1, most * math.ceil(len(train) / batch))
        optimizers = _Optimizers(torch, module, plan.rate or self._network.rate, steps)
        loss = TorchLoss(self.losses, plan.temperature, self._subject.target)
        stopping, best, epochs = Stopping(plan.patience), None, list[Epoch]()
        shuffle = np.random.default_rng(plan.seed)
        for number in range(1, most + 1):
            began = time.monotonic()
            mean = self._one_epoch(module, rows, train, batch, shuffle, optimizers, loss)
            epoch = self._looked_at(number, mean, held, stop, loss, began)
            epochs.append(epoch)
            if stopping.seen(number, epoch.agreement, epoch.held_out_loss):
                best = copy.deepcopy(module.state_dict())
            told(epoch)
            if stopping.done:
                break
        if best is None:
            raise SetupError(
                "training came to nothing: the loss is no number in any epoch; lower --rate, or look at the rows"
            )
        module.load_state_dict(best)
        module.eval()
        return Trained(stopping.best_epoch, stopping.done, epochs)

    def answer(self, rows: Sequence[Row]) -> Array:
        """See `Student.answer`."""
        return finished(self._subject.target, self._raw(_Rows(self._network.prepare(rows))))

    def write(self, folder: Path) -> str:
        """See `Student.write`."""
        write_module(self._module, self._subject.target, self._network.tensors, self._seen, folder / ONNX_FILE)
        return self._network.write(folder, ONNX_FILE)

    def _one_epoch(
        self, module: Module, rows: _Rows, train: Part, batch: int, shuffle: Any, optimizers: _Optimizers, loss: Any
    ) -> float:
        torch = self._torch
        module.train()
        total = 0.0
        for chosen in batches(rows.lengths, batch, shuffle):
            feed = {name: torch.from_numpy(value) for name, value in rows.batch(chosen).items()}
            raw = self._called(module, feed)
            error = loss(raw, torch.from_numpy(train.wanted[chosen]), torch.from_numpy(train.labels[chosen]))
            optimizers.step(error)
            total += float(error.detach()) * len(chosen)
        return total / len(train)

    def _looked_at(self, number: int, mean: float, held: _Rows, stop: Part, loss: Any, began: float) -> Epoch:
        torch, target = self._torch, self._subject.target
        raw = self._raw(held)
        with torch.no_grad():
            found = loss(torch.from_numpy(raw), torch.from_numpy(stop.wanted), torch.from_numpy(stop.labels))
        return Epoch(
            number=number,
            loss=mean,
            held_out_loss=float(found),
            agreement=agreement(target, stop.wanted, finished(target, raw)),
            seconds=time.monotonic() - began,
        )

    def _raw(self, rows: _Rows) -> Array:
        torch = self._torch
        self._module.eval()
        parts = []
        with torch.no_grad(), quiet():
            for start in range(0, len(rows), _ANSWERED):
                chosen = np.arange(start, min(start + _ANSWERED, len(rows)))
                feed = {name: torch.from_numpy(value) for name, value in rows.batch(chosen).items()}
                parts.append(self._called(self._module, feed).numpy())
        return np.concatenate(parts)

    def _called(self, module: Module, feed: dict[str, Any]) -> Any:
        try:
            raw = module(**feed)
        except Exception as error:
            raise SetupError(
                f"the student's forward fails on a batch of {', '.join(feed)}: {type(error).__name__}: {error}"
            ) from error
        wanted = (len(next(iter(feed.values()))), self._subject.target.width)
        if not hasattr(raw, "shape") or tuple(raw.shape) != wanted:
            shape = list(raw.shape) if hasattr(raw, "shape") else type(raw).__name__
            raise SetupError(
                f"the student answers {shape} to a batch; it has to be one tensor {list(wanted)}: raw values [rows, "
                f"{wanted[1]}], without softmax"
            )
        return raw.float()


class _Rows:
    """Rows of a module's tensors. Those of one shape are put together once."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self.lengths = np.array([length_of(row) for row in rows])
        shapes = {tuple((name, value.shape) for name, value in row.items()) for row in rows}
        self._whole = (
            {name: np.ascontiguousarray(value) for name, value in batch_of(rows).items()} if len(shapes) == 1 else None
        )

    def __len__(self) -> int:
        return len(self._rows)

    def first(self) -> list[Row]:
        """Some, as examples."""
        return self._rows[:3]

    def batch(self, chosen: Array) -> dict[str, Array]:
        """Some of the rows, filled up to the longest."""
        if self._whole is not None:
            return {name: value[chosen] for name, value in self._whole.items()}
        return batch_of([self._rows[int(place)] for place in chosen])


class _Optimizers:
    """AdamW, and for tables of which a batch touches few rows its sparse form; one rise and fall of the rate."""

    def __init__(self, torch: Any, module: Module, rate: float, steps: int) -> None:
        sparse = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding) and part.sparse}
        weights = [one for one in module.parameters() if one.requires_grad]
        dense = [one for one in weights if id(one) not in sparse]
        few = [one for one in weights if id(one) in sparse]
        self._optimizers = []
        if dense:
            self._optimizers.append(torch.optim.AdamW(dense, lr=rate, weight_decay=0.01))
        if few:
            self._optimizers.append(torch.optim.SparseAdam(few, lr=rate))
        self._schedules = [
            torch.optim.lr_scheduler.OneCycleLR(one, max_lr=rate, total_steps=steps + 1, cycle_momentum=False)
            for one in self._optimizers
        ]

    def step(self, error: Any) -> None:
        """Move all weights against the error's gradient."""
        for one in self._optimizers:
            one.zero_grad()
        error.backward()
        for one in self._optimizers:
            one.step()
        for schedule in self._schedules:
            schedule.step()


def batches(lengths: Array, size: int, shuffle: Any) -> Iterator[Array]:
    """All rows once, in batches of chance whose rows are of like length."""
    order = shuffle.permutation(len(lengths))
    ends = [*range(size * _WINDOW, len(order) - 1, size * _WINDOW), len(order)]  # no window of one row alone
    for start, end in zip([0, *ends], ends, strict=False):
        window = order[start:end]
        window = window[np.argsort(lengths[window], kind="stable")]
        parts = [window[at : at + size] for at in range(0, len(window), size)]
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [np.concatenate(parts[-2:])]  # of one row alone, batch normalisation knows no spread
        for place in shuffle.permutation(len(parts)):
            yield parts[place]
