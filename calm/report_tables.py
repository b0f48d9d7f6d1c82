"""The tables of the evaluations: on the screen, as files, and in summary.json."""

import csv
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from calm.evaluate import Tester
from calm.evaluate_cue import NUM_DIFF_LIST, CueLocaliser, columns_of
from calm.evaluate_erasing import Erased, summarize
from common.aliases import one_module
from common.files import atomic_write
from common.own_names import counted
from common.plots import save_curves
from common.run import Run, plain

one_module(__name__, "calm.report_tables")

# mPxAP percent of the original README for 1, 2, 3 parts and all pairs; its protocol is not known
PUBLISHED = {
    ("CAM", "vanilla"): (24.1, 28.3, 32.2, 29.6),
    ("CALM-ML", "jointll"): (23.6, 26.7, 28.8, 27.3),
    ("CALM-EM", "jointll"): (30.4, 33.3, 36.3, 34.3),
}


def _cells(values: Sequence[float | None], form: str) -> str:
    """Numbers in columns of nine characters, `none` where there is none."""
    cells = []
    for value in values:
        cells.append("     none" if value is None else format(value, form))
    return "".join(cells)


# ---- remove and classify -------------------------------------------------------------


def write_erasing(tester: Tester, erased: Erased, ks: Sequence[float], auc_steps: int) -> None:
    """measure_<process>.pickle as released, .json with R_k, the table on the screen, the curve."""
    run = tester.run
    rows = summarize(erased.top, erased.at_random, ks)
    accuracy = float(100 * erased.preds.mean())
    ratios = {f"R_{k}": row["R"] for k, row in rows.items()}
    run.log("test", accuracy=accuracy, **ratios)
    _print_erasing(run, rows, accuracy, len(erased.preds))
    if run.is_main:
        stem = f"measure_{tester.process}{_suffix(tester.method)}"
        measure: dict[str, Any] = {"preds": erased.preds.tolist()}
        for name, table in (("preds-topk", erased.top), ("preds-random", erased.at_random)):
            measure[name] = {k: table[:, 0, number].tolist() for number, k in enumerate(ks)}
        atomic_write(run.folder / f"{stem}.pickle", pickle.dumps(measure))
        text = json.dumps(plain({"accuracy": accuracy, "R_k": rows}), indent=1)
        atomic_write(run.folder / f"{stem}.json", f"{text}\n".encode())

        curves = {}
        for name in ("topk", "random"):
            curves[name] = [accuracy, *(row[name] for row in rows.values())]
        axis = f"pixels erased: 0, {', '.join(rows)}"
        figure = run.figure("remove_and_classify")
        save_curves(figure, curves, xlabel=axis, ylabel="accuracy (percent)")

    deletion = insertion = None
    if auc_steps > 0:
        deletion, insertion = erased.areas.mean(0).tolist()
        run.print(
            f"deletion AUC {deletion:.4f} (lower is better), "
            f"insertion AUC {insertion:.4f} (higher is better)"
        )
    areas = {"deletion_auc": deletion, "insertion_auc": insertion}
    tester.finish(**areas, accuracy=accuracy, **ratios, R=rows)


def _suffix(method: str) -> str:
    """_EM or _ML, so that the two never write the same file."""
    return method.removeprefix("CALM").removeprefix("CAM").replace("-", "_")


def _print_erasing(
    run: Run, rows: Mapping[str, Mapping[str, float]], accuracy: float, images: int
) -> None:
    interval = f"95 % interval over {images} images"
    run.print(f"accuracy {accuracy:.2f} %; R_k with {interval} (lower is better)")
    for k, row in rows.items():
        note = ""
        if not row["random_count"]:
            note = "  no survivor of random erasing"
        run.print(
            f"  k {k:>5}: R_k {row['R']:.4f} [{row['low']:.4f}, {row['high']:.4f}]  "
            f"top-k {row['topk']:.2f} %, random {row['random']:.2f} %{note}"
        )


# ---- cue localisation ----------------------------------------------------------------


def write_cues(
    tester: Tester,
    cues: CueLocaliser,
    protocols: Sequence[str],
    foreground: str,
    is_sample: bool,
) -> None:
    """The table on the screen, cue_pairs.csv, summary.json.

    is_sample: whether the birds are drawn ones, with which the paper's numbers are not comparable.
    """
    run = tester.run
    table = cues.table(protocols)
    distance = cues.peak_distance()
    flat = {}
    for name, row in {**table, "peak_distance": distance}.items():
        for parts, value in row.items():
            flat[f"{name}/{parts}"] = value
    run.log("test", **flat)

    counts = {str(parts): cues.parts_of.count(parts) for parts in NUM_DIFF_LIST}
    shown = ", ".join(f"{n} with {parts}" for parts, n in counts.items())
    maps = int(cues.images[:, 0].sum())
    skipped = int(cues.images[:, 1].sum())
    empty = int((cues.images[:, 0] == 0).sum())
    run.print(
        f"{foreground}; {counted(len(cues.pairs), 'pair')} ({shown} parts), "
        f"{counted(maps, 'map')}, {skipped} without a visible differing part, "
        f"{counted(empty, 'pair')} without an image"
    )
    run.print("mPxAP (percent)       1 part  2 parts  3 parts     mean")
    undefined = cues.undefined(protocols)
    for name, row in table.items():
        note = ""
        if undefined[name]:
            note = f"  without {undefined[name]} undefined pairs"
        run.print(f"  {name:<18}{_cells(list(row.values()), '9.2f')}{note}")
    run.print(f"peak to part, pixels {_cells(list(distance.values()), '9.1f')}")
    published = PUBLISHED.get((tester.method, tester.process))
    if published is not None and not is_sample:
        run.print(f"  published (191 pairs){_cells(published, '9.1f').removeprefix('   ')}")

    if run.is_main:
        text = _pairs_as_csv(cues, protocols)
        atomic_write(run.folder / "cue_pairs.csv", text.encode())
    tester.finish(
        foreground=foreground,
        pairs=counts,
        skipped_images=skipped,
        undefined_pairs=undefined,
        **flat,
        mPxAP=table,
    )


def _pairs_as_csv(cues: CueLocaliser, protocols: Sequence[str]) -> str:
    """Return a line for each pair, as text of a csv file.

    It has the classes, number of parts, images counted and skipped, and PxAP of each protocol.
    """
    columns = {name: cues.scores(*column) for name, column in columns_of(protocols).items()}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["first", "second", "parts", "images", "skipped", *columns])
    for number, (pair, *scores) in enumerate(zip(cues.pairs, *columns.values(), strict=True)):
        counted, skipped = cues.images[number].tolist()
        rows.writerow([*pair, cues.parts_of[number], counted, skipped, *scores])
    return text.getvalue()


# ---- localisation --------------------------------------------------------------------


def write_wsol(tester: Tester, scores: Mapping[str, float | None]) -> None:
    """The table on the screen, wsol.json, summary.json."""
    run = tester.run
    run.log("test", **scores)
    for name, value in scores.items():
        shown = "none" if value is None else f"{value:.2f}"
        run.print(f"  {name:<16} {shown}")
    if run.is_main:
        text = json.dumps(plain(dict(scores)), indent=1)
        atomic_write(run.folder / "wsol.json", f"{text}\n".encode())
    tester.finish(**scores)
