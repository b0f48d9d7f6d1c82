"""simulate_coco, with the call of the released code."""

from pathlib import Path
from typing import Any

from common.aliases import one_module
from csl.data_partial import simulate
from csl.figures import plot_two_frequencies

one_module(__name__, "csl.src.helper_functions.coco_simulation")

__all__ = ["plot_class_freq", "simulate_coco"]


def simulate_coco(
    args: Any,
    dataset_train: Any,
    mode: str | None = None,
    param: float | None = None,
    *,
    verbose: bool = True,
) -> Any:
    """`simulate` on a data set, which is returned.

    `mode` and `param` default to those of `args`.
    """
    mode = mode or args.simulate_partial_type
    param = args.simulate_partial_param if param is None else param
    seed = int(getattr(args, "seed", 0) or 0)
    simulate(dataset_train, mode, param, seed=seed, verbose=verbose)
    return dataset_train


def plot_class_freq(stat_orig: Any, stat_sim: Any, path: str | Path = "class_freq.png") -> Path:
    """Draw how many images each class has before and after a simulation; returns the PNG's path.

    Args:
        stat_orig, stat_sim: (C,) counts, labels (N,C) whose positives are counted, or a mapping
            class -> count, before and after.
    """
    return plot_two_frequencies(stat_orig, stat_sim, Path(path))
