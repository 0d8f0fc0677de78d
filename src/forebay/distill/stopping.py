"""When training has gone on long enough. Pure."""

from __future__ import annotations


class Stopping:
    """Keeps the epoch whose held-out agreement is best, of equal ones that with the lower loss, and says stop after
    `patience` epochs without a better one.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best: tuple[float, float] | None = None
        self.best_epoch = 0
        self._last = 0

    def seen(self, epoch: int, agreement: float, loss: float) -> bool:
        """Whether this epoch is the best so far. NaN never is."""
        self._last = epoch
        found = (agreement, -loss)
        if agreement != agreement or loss != loss:
            return False
        if self._best is not None and found <= self._best:
            return False
        self._best, self.best_epoch = found, epoch
        return True

    @property
    def done(self) -> bool:
        """Whether another epoch would be one too many."""
        return self._last - self.best_epoch >= self._patience
