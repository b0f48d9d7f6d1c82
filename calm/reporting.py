"""What a training run says and keeps: its log lines, reports, curves, and the original's checkpoint file."""

from collections.abc import Mapping
from typing import Any

from calm.network.util import BESIDE_STATE_DICT, load_checkpoint
from calm.util import Reporter
from common import checkpoint
from common.aliases import one_module
from common.plots import save_curves
from common.run import Run

one_module(__name__, "calm.reporting")


class PerformanceMeter:
    """One metric over the epochs: its values, the best one and its epoch (from 1)."""

    def __init__(self, split: str, higher_is_better: bool = True) -> None:
        self.split, self.higher_is_better = split, higher_is_better
        self.value_per_epoch: list[float] = []
        self.best_value: float | None = None
        self.best_epoch: int | None = None

    @property
    def current_value(self) -> float | None:
        """The last value."""
        return self.value_per_epoch[-1] if self.value_per_epoch else None

    def update(self, new_value: float) -> None:
        """Append a value."""
        self.value_per_epoch.append(new_value)
        best = max if self.higher_is_better else min
        self.best_value = best(self.value_per_epoch)
        self.best_epoch = self.value_per_epoch.index(self.best_value) + 1


def told_of_skipped(scores: Mapping[str, float | None]) -> str:
    """What stands behind a number that was measured without some images; empty where none is missing."""
    missing = scores.get("eval_skipped")
    return (
        f", eval_skipped {missing:.0f}: unreadable images are left out of this number"
        if missing
        else ""
    )


class Reports:
    """The reporting half of main.Trainer; needs its args, run, model, optimizer, logger, meters, performance."""

    _CHECKPOINT_NAME_TEMPLATE = "{}_checkpoint.pth.tar"
    run: Run
    args: Any

    def report_train(self, epoch: int) -> None:
        """Log and reset the epoch's training loss and accuracy; with --skip_corrupt also how many images it skipped."""
        loss, accuracy = self.loss.compute(), self.accuracy.compute()
        skipped = {}
        if self.args.skip_corrupt:
            skipped = {
                "skipped": self.run.progress.skipped - sum(self.run.values("train", "skipped"))
            }
            self.run.print(
                f"epoch {epoch}: {skipped['skipped']} unreadable training images skipped"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        self.run.log("train", loss=loss, accuracy=100 * (accuracy or 0), lr=rate, **skipped)
        self.performance["train"].update(100 * (accuracy or 0))

    def report(self, epoch: int, split: str, scores: dict[str, float]) -> None:
        """Log a split's scores and write them as reports/EPOCH_SPLIT.json."""
        self.run.log(split, **scores)
        self.performance[split].update(scores["accuracy"])
        if self.run.is_main:
            self.logger.log_dict(
                {f"{split}/{name}": value for name, value in scores.items()}, epoch
            )
            reporter = Reporter(self.run.folder / "reports", f"{epoch}_{split}")
            for name, value in scores.items():
                reporter.add(f"{split}/{name}", value)
            reporter.write()

    def logged(self, split: str) -> dict[str, float]:
        """The scores of a split that were logged last."""
        line = next((line for line in reversed(self.run.lines) if line["split"] == split), {})
        return {
            name: value for name, value in line.items() if name not in ("step", "epoch", "split")
        }

    def summary(self, scores: dict[str, float]) -> dict[str, float | None]:
        """What summary.json says at the end: the test scores, the best val accuracy, the number of skipped images."""
        summary = {
            f"test_{name}": value for name, value in scores.items() if name != "eval_skipped"
        }
        summary["best_val"] = self.run.progress.best
        if self.args.skip_corrupt:
            summary["skipped"] = self.run.progress.skipped
            summary["eval_skipped"] = scores.get("eval_skipped")
        return summary

    def print_performances(self, epoch: int) -> None:
        """One line an epoch."""
        line = {entry["split"]: entry for entry in self.run.lines[-2:]}
        speed = self.run.images_per_second() or 0
        self.run.print(
            f"epoch {epoch}/{self.args.epochs}: loss {line['train']['loss'] or 0:.4f}, "
            f"train {line['train']['accuracy']:.2f}, val {line['val']['accuracy']:.2f} "
            f"(nll {line['val']['nll']:.3f}, prior entropy {line['val']['prior_entropy']:.2f}), "
            f"lr {line['train']['lr']:.4g}, {speed:.1f} images/s{told_of_skipped(line['val'])}"
        )

    def save_performances(self) -> None:
        """figures/accuracy.png and log.json."""
        if self.run.is_main:
            curves = {
                s: m.value_per_epoch
                for s, m in self.performance.items()
                if len(m.value_per_epoch) > 1
            }
            if curves:
                save_curves(
                    self.run.figure("accuracy"), curves, xlabel="epoch", ylabel="accuracy (percent)"
                )
            self.logger.finalize_log()

    def save_checkpoint(self, epoch: int) -> None:
        """last_checkpoint.pth.tar in the original's form, beside our checkpoints/last.pt."""
        if self.run.is_main:
            path = self.run.folder / self._CHECKPOINT_NAME_TEMPLATE.format("last")
            beside = {name: getattr(self.args, name) for name in BESIDE_STATE_DICT}
            checkpoint.save(path, {**beside, "epoch": epoch, "state_dict": self.model.state_dict()})

    def load_checkpoint(self, path: str) -> None:
        """Load weights of ours or of the original."""
        load_checkpoint(self.model, path, self.args.is_different_checkpoint)
