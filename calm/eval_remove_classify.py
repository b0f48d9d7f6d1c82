"""Remove and classify: how fast does accuracy fall when the highest-scoring pixels are erased?

    R_k = correct after erasing the k highest-scoring pixels / correct after erasing as many random pixels

over all test images, with the map of the ground-truth class; lower is better.

    python eval_remove_classify.py --experiment_name=NAME --attribution_method=CALM_EM --score_map_process=jointll
"""

import common.interrupt  # noqa: F401

import json
import pickle
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from calm.erasing import get_baseline, masks_from_ranking, rank_pixels
from calm.faithfulness import area_under, probability_curves
from calm.flags import ERASE_K_LIST
from calm.tester import Tester, start
from calm.util import resize_scoremaps
from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import run_main
from common.data import gather_in_order
from common.loading import seed_of
from common.plots import save_curves
from common.run import plain

one_module(__name__, "calm.eval_remove_classify")

_ERASE_K_LIST = list(ERASE_K_LIST)
TIE_ORDERS, BOOTSTRAPS, DRAWN_AT_ONCE = 5, 1000, 2_000_000
IMAGES_PER_FORWARD = 64
NOISE = -1  # in place of the repeat's number: the noise that replaces pixels is drawn apart from their positions


def classify_erased(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, ranking: torch.Tensor, ks: Sequence[float],
    baseline: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """(K,B) bool: is the argmax the target once the first int(k H W) pixels of `ranking` (B,H*W) are replaced?

    baseline: what replaces them, (B,C,H,W); None for 0. Several k share a forward up to IMAGES_PER_FORWARD.
    """
    size, correct = tuple(inputs.shape[-2:]), []
    step = max(1, IMAGES_PER_FORWARD // len(inputs))
    for first in range(0, len(ks), step):
        part = ks[first : first + step]
        keep = torch.cat([masks_from_ranking(ranking, k, size) for k in part])
        erased = inputs.repeat(len(part), 1, 1, 1) * keep
        if baseline is not None:
            erased += baseline.repeat(len(part), 1, 1, 1) * (1 - keep)
        if inputs.is_contiguous(memory_format=torch.channels_last):
            erased = erased.contiguous(memory_format=torch.channels_last)
        out = model(erased)
        predicted = (out["probs"] if isinstance(out, dict) else out).argmax(1)
        correct.append(predicted.unflatten(0, (len(part), -1)) == targets)
    return torch.cat(correct)


def random_ranking(index: torch.Tensor, pixels: int, seed: int, repeat: int = 0) -> torch.Tensor:
    """(B,pixels) a random order per image, from (seed, repeat, dataset index) alone."""
    noise = [
        torch.rand(pixels, generator=torch.Generator().manual_seed(seed_of(seed, repeat, int(i))))
        for i in index
    ]
    return torch.stack(noise).argsort(dim=1)


def make_baseline(
    kind: str, inputs: torch.Tensor, index: torch.Tensor, seed: int
) -> torch.Tensor | None:
    """What replaces erased pixels of inputs (B,C,H,W); None for 0. Noise comes from (seed, dataset index) alone."""
    if kind == "zero":
        return None
    noise = None
    if kind == "noise":
        drawn = []
        for i in index.tolist():
            generator = torch.Generator().manual_seed(seed_of(seed, NOISE, i))
            drawn.append(torch.randn(inputs.shape[1:], generator=generator))
        noise = torch.stack(drawn)
    return get_baseline(kind, inputs, inputs.device, noise)


@torch.inference_mode()
def erase_and_classify(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    scoremaps: torch.Tensor,
    ks: Sequence[float],
    erase_method: str = "topk",
    baseline: str = "zero",
    *,
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> dict[float, list[bool]]:
    """{k: correct after erasing} for inputs (B,C,H,W), targets (B,), scoremaps (B,1,H,W).

    erase_method: "topk", the highest scores, or "random", as many drawn from (seed, index).
    """
    if erase_method not in ("topk", "random"):
        raise ValueError(f"erase_method {erase_method!r}: choose from topk, random")
    index = torch.arange(len(inputs)) if index is None else index
    if erase_method == "topk":
        ranking = rank_pixels(scoremaps)
    else:
        ranking = random_ranking(index, scoremaps[0].numel(), seed).to(inputs.device)
    base = make_baseline(baseline, inputs, index, seed)
    correct = classify_erased(model, inputs, targets, ranking, list(ks), base)
    return {k: row.tolist() for k, row in zip(ks, correct, strict=True)}


def evaluate(tester: Tester) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Areas (n,2) of deletion and insertion; correct or not: plain (n,), top-k erased (n,T,K), random (n,R,K).

    In dataset order.
    """
    args, parts = tester.args, []
    for images, labels, _, index in tester.batches():
        maps, probs = tester.mapper.with_probs(images, labels)
        with torch.inference_mode(), tester.accelerator.autocast():
            base = make_baseline(args.baseline, images, index, args.erase_seed)
            scores = resize_scoremaps(maps, "tensor", images.shape[-2:])
            rankings = [rank_pixels(scores)]
            if args.tie_break == "random":
                seed, pixels = seed_of(args.erase_seed, TIE_ORDERS), scores[0].numel()
                orders = (
                    random_ranking(index, pixels, seed, r).to(images.device)
                    for r in range(TIE_ORDERS)
                )
                rankings = [rank_pixels(scores, order) for order in orders]
            top = [
                classify_erased(tester.model, images, labels, r, args.erase_k, base)
                for r in rankings
            ]
            drawn = [
                random_ranking(index, scores[0].numel(), args.erase_seed, r).to(images.device)
                for r in range(args.erase_repeats)
            ]
            at_random = [
                classify_erased(tester.model, images, labels, r, args.erase_k, base) for r in drawn
            ]
            areas = torch.full((2, len(images)), torch.nan)
            if args.auc_steps > 0:
                curves = probability_curves(
                    tester.model, images, labels, rankings[0], args.auc_steps
                )
                areas = torch.stack([area_under(c) for c in curves])
        parts.append(
            (
                index,
                areas.T,
                probs.argmax(1) == labels,
                *(torch.stack(x).permute(2, 0, 1) for x in (top, at_random)),
            )
        )
    whole = [torch.cat(column) for column in zip(*parts, strict=True)]
    return tuple(t.numpy() for t in gather_in_order(*whole, accelerator=tester.accelerator)[1:])


def bootstrap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """sum a / sum b of (K,n) over BOOTSTRAPS draws of n images with replacement, the same for all K: (K,BOOTSTRAPS)."""
    rng, n = np.random.default_rng(0), a.shape[1]
    step, parts = max(1, DRAWN_AT_ONCE // n), []
    for first in range(0, BOOTSTRAPS, step):
        draws = rng.integers(n, size=(min(step, BOOTSTRAPS - first), n))
        parts.append([x[draws].sum(1) / y[draws].sum(1) for x, y in zip(a, b, strict=True)])
    return np.concatenate(parts, axis=1)


def summarize(
    preds: np.ndarray, top: np.ndarray, at_random: np.ndarray, ks: Sequence[float]
) -> dict[str, dict]:
    """Per k: both accuracies in percent, both counts, R_k with a 95 % interval over images (None where undefined)."""
    shares = [x.mean(1).T.copy() for x in (top, at_random)]  # (K,n) each
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios, spreads = shares[0].sum(1) / shares[1].sum(1), bootstrap(*shares)
    rows = {}
    for k, a, b, ratio, spread in zip(ks, *shares, ratios, spreads, strict=True):
        low, high = (
            np.quantile(spread[np.isfinite(spread)], (0.025, 0.975))
            if np.isfinite(spread).any()
            else (np.nan,) * 2
        )
        rows[f"{k:g}"] = {
            "R": float(ratio), "low": float(low), "high": float(high), "topk": float(100 * a.mean()),
            "random": float(100 * b.mean()), "topk_count": float(a.sum()), "random_count": float(b.sum()),
        }  # fmt: skip
    return rows


def write(
    tester: Tester, areas: np.ndarray, preds: np.ndarray, top: np.ndarray, at_random: np.ndarray
) -> None:
    """measure_<process>.pickle as released, .json with R_k, the table on the screen, the curve."""
    args, run = tester.args, tester.run
    rows, accuracy = summarize(preds, top, at_random, args.erase_k), float(100 * preds.mean())
    run.log("test", accuracy=accuracy, **{f"R_{k}": row["R"] for k, row in rows.items()})
    run.print(
        f"accuracy {accuracy:.2f} %; R_k with 95 % interval over {len(preds)} images (lower is better)"
    )
    for k, row in rows.items():
        note = "" if row["random_count"] else "  no survivor of random erasing"
        run.print(
            f"  k {k:>5}: R_k {row['R']:.4f} [{row['low']:.4f}, {row['high']:.4f}]  "
            f"top-k {row['topk']:.2f} %, random {row['random']:.2f} %{note}"
        )
    if run.is_main:
        stem = f"measure_{args.score_map_process}{tester.suffix}"
        measure = {
            "preds": preds.tolist(),
            "preds-topk": {k: top[:, 0, n].tolist() for n, k in enumerate(args.erase_k)},
            "preds-random": {k: at_random[:, 0, n].tolist() for n, k in enumerate(args.erase_k)},
        }
        atomic_write(run.folder / f"{stem}.pickle", pickle.dumps(measure))
        text = json.dumps(plain({"accuracy": accuracy, "R_k": rows}), indent=1)
        atomic_write(run.folder / f"{stem}.json", (text + "\n").encode())
        curves = {
            name: [accuracy, *(row[name] for row in rows.values())] for name in ("topk", "random")
        }
        axis = f"pixels erased: 0, {', '.join(rows)}"
        save_curves(
            run.figure("remove_and_classify"), curves, xlabel=axis, ylabel="accuracy (percent)"
        )
    deletion, insertion = areas.mean(0).tolist() if args.auc_steps > 0 else (None, None)
    if args.auc_steps > 0:
        run.print(
            f"deletion AUC {deletion:.4f} (lower is better), insertion AUC {insertion:.4f} (higher is better)"
        )
    tester.finish(
        deletion_auc=deletion,
        insertion_auc=insertion,
        accuracy=accuracy,
        **{f"R_{k}": row["R"] for k, row in rows.items()},
        R=rows,
    )


def main(argv: list[str] | None = None, script: str = "eval_remove_classify") -> None:
    """Erase, classify, report."""
    tester = start(argv, script)
    write(tester, *evaluate(tester))


if __name__ == "__main__":
    run_main(main)
