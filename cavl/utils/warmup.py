"""When selection starts: after a number of epochs, or when averaging has taught what it can."""

from common.aliases import one_module

one_module(__name__, "cavl.utils.warmup")


class Warmup:
    """`-warmup N`: the first N epochs only average. `-warmup auto`: until the covering rate stops rising.

    The covering rate of the training candidates (share of samples whose prediction lies in S) needs no true
    label; while averaging still sorts candidates from the rest it rises. Why it matters: with few steps an
    epoch the first selection comes too early (spec f: Lost 54 % without, 71 % with five epochs).
    """

    def __init__(self, epochs: int | str) -> None:
        self.epochs = epochs
        self.best, self.risen = -1.0, True

    def is_over(self, epoch: int) -> bool:
        """Whether epoch number `epoch` (from 0) selects labels."""
        return not self.risen if self.epochs == "auto" else epoch >= self.epochs

    def observe(self, covering_rate: float) -> None:
        """Note the covering rate after an epoch."""
        if self.risen:
            self.risen = covering_rate > self.best
            self.best = max(self.best, covering_rate)

    def state_dict(self) -> dict[str, float | bool]:
        """What `observe` has noted."""
        return {"best": self.best, "risen": self.risen}

    def load_state_dict(self, state: dict[str, float | bool]) -> None:
        """Put it back; ValueError for values that `observe` does not note."""
        best = state["best"]
        risen = state["risen"]
        if not isinstance(risen, bool) or not -1 <= best <= 1:
            raise ValueError(f"best {best!r:.40}, risen {risen!r:.40}")
        self.best = best
        self.risen = risen
