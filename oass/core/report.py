"""What a training run says: first lines, log lines, pictures and curves, the JSON log, the summary."""

import argparse
from collections.abc import Mapping

import torch

from common.aliases import one_module
from common.plots import save_curves
from common.run import Run
from oass.core.datasets import VOC_Dataset_For_Classification
from oass.core.evaluate import left_out
from oass.core.networks import Classifier
from oass.core.options import LOSS_PARTS, PUZZLES, differences
from oass.core.pictures import save_pictures
from oass.core.terms import terms_of
from oass.tools.ai.log_utils import Average_Meter, log_line
from oass.tools.ai.torch_utils import calculate_parameters
from oass.tools.general.json_utils import write_json

one_module(__name__, "oass.core.report")

DEAD_LIMIT = 0.5
SHOWN = 4  # examples in a line


def print_start(
    run: Run,
    args: argparse.Namespace,
    train_data: VOC_Dataset_For_Classification,
    val_data: VOC_Dataset_For_Classification,
    student: Classifier,
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> None:
    """What is trained on what, the settings that surprise, and what differs from the released code."""
    for asked, data in ((args.train_domain, train_data), (args.val_domain, val_data)):
        instead = (
            ""
            if data.domain == asked
            else f" (there is no list {asked}; make it with oass/prepare_voc.py)"
        )
        run.print(f"{describe_data(data)}{instead}")
    momentum = optimizer.param_groups[0]["momentum"]
    run.print(
        f"{args.strategy}, {args.architecture} ({calculate_parameters(student):.2f} M parameters), weights "
        f"{args.weights}, {steps} steps an epoch; SGD's momentum is {momentum:g}"
        f"{'' if args.sgd_momentum is not None else ' as released (README, D3)'}"
    )
    if args.strategy in PUZZLES:
        found = ", ".join(differences(args))
        run.print(
            f"differs from the release in {found}; --released"
            if found
            else "every switch is as released"
        )
    terms = terms_of(args.strategy, args.p_loss, args.loss_option)
    constant = sorted(LOSS_PARTS[part] for part in terms.present - terms.trained)
    if constant:
        flag = ", so --alpha_p has no effect" if "p_class_loss" in constant else ""
        run.print(
            f"logged and added, but without a gradient{flag} (README, D4): {', '.join(constant)}"
        )


def describe_data(data: VOC_Dataset_For_Classification) -> str:
    """How many images, and what is odd about their labels, in a line."""
    text = f"{data.domain}: {len(data)} images of {data.root}"
    if not data.has_labels:
        return f"{text}, without annotations"
    empty = int((data.split.labels.sum(1) == 0).sum())
    text += f", {empty} without any object"
    flat = data.split.without_area
    if flat:
        shown = ", ".join(flat[:SHOWN])
        more = ", ..." if len(flat) > SHOWN else ""
        text += f"; boxes without width or height, whose labels count: {len(flat)}, {shown}{more}"
    return text


def without(line: Mapping[str, object]) -> str:
    """What stands beside a number that was measured without unreadable images: ", eval_skipped 2"; else ""."""
    return f", eval_skipped {line['eval_skipped']}" if line.get("eval_skipped") else ""


def count_of(data: VOC_Dataset_For_Classification) -> dict[str, int]:
    """What a line of numbers that were measured without unreadable images holds: {"eval_skipped": 2}; else {}."""
    return {"eval_skipped": data.skipped} if data.skipped else {}


def log_if_due(
    run: Run,
    args: argparse.Namespace,
    meter: Average_Meter,
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> None:
    """Every print_ratio of an epoch Train/{loss, class_loss, ..., learning_rate, dead_cam} since the last line.

    Called before a step and after the last one, so that the line of a step whose checkpoint was written
    before it could be logged is logged by the resumed run.
    """
    logged = [line["step"] for line in run.lines if line["split"] == "Train"][-1:]
    if run.progress.step % max(1, int(steps * args.print_ratio)) or run.progress.step in (
        0,
        *logged,
    ):
        return
    max_iteration = args.max_epoch * steps
    values = {**meter.get(), "learning_rate": optimizer.param_groups[0]["lr"]}
    run.log("Train", **values)
    step, seconds = run.progress.step, run.progress.seconds
    left = (max_iteration - step) * seconds / max(step, 1) / 60
    run.print(
        f"step {step}/{max_iteration}  {log_line(values)}  {run.images_per_second() or 0:.1f} images/s  "
        f"{left:.1f} min left"
    )
    is_gated = args.strategy != "gap"  # pooled maps may be negative and learn
    if is_gated and values["dead_cam"] is not None and values["dead_cam"] > DEAD_LIMIT:
        run.print(
            f"warning: {100 * values['dead_cam']:.0f} % of the present classes have a map of zeros (dead maps): they "
            "learn nothing any more; lower --lr or --alpha_re, lengthen --alpha_schedule_re, or try --p_loss full"
        )


def after_epoch(
    args: argparse.Namespace,
    run: Run,
    student: Classifier,
    teacher: Classifier | None,
    data: VOC_Dataset_For_Classification,
) -> None:
    """One line, the JSON log, and pictures of the puzzle."""
    line = run.lines[-1]
    if "Evaluation" not in [earlier["split"] for earlier in run.lines[:-1]] and left_out(
        line["ap"]
    ):
        run.print(left_out(line["ap"]))
    names = ("map", "best map", "eval class loss", "pointing", "map without difficult")
    classes = f"{line['classes']} of {len(line['ap'])} classes{without(line)}"
    values = {name: line[name] for name in names}
    if args.eval_ema:
        values["map of the teacher"] = run.lines[-2]["map"]
    run.print(f"epoch {line['epoch']}/{args.max_epoch}  {log_line(values)}  ({classes})")
    if not run.is_main:
        return
    name = args.tag or args.strategy
    lines = {key: [x for x in run.lines if x["split"] == split] for key, split in LOG_KEYS.items()}
    write_json(run.folder / "data" / f"{name}.json", lines)
    if args.pictures:
        path = run.figure(f"puzzle_epoch_{line['epoch']:03d}")
        save_pictures(path, student, teacher or student, data, args, run.accelerator)


LOG_KEYS = {"train": "Train", "validation": "Evaluation"}


def finish(
    args: argparse.Namespace,
    run: Run,
    student: Classifier,
    teacher: Classifier | None,
    data: VOC_Dataset_For_Classification,
) -> dict[str, object]:
    """Curves, summary.json, the last lines; returns the summary."""
    evaluations = [line for line in run.lines if line["split"] == "Evaluation"]
    trains = [line for line in run.lines if line["split"] == "Train"]
    last = evaluations[-1] if evaluations else {}
    summary = {
        "strategy": args.strategy,
        "map": last.get("map"),
        "best_map": last.get("best map"),
        **{
            name.replace(" ", "_"): last.get(name)
            for name in ("map voc2010", "map without difficult", "pointing")
        },
        "classes": last.get("classes"),
        **({"map_ema": run.values("Evaluation_ema", "map")[-1]} if args.eval_ema and last else {}),
        "dead_cam": trains[-1]["dead_cam"] if trains else None,
        "ap": last.get("ap"),
        "steps": run.progress.step,
        "skipped": run.progress.skipped,
        **({"eval_skipped": last["eval_skipped"]} if without(last) else {}),
    }
    if run.is_main and evaluations:
        curves = {"mAP": [e["map"] for e in evaluations]}
        save_curves(
            run.figure("map"),
            curves,
            xlabel="epoch",
            ylabel="per cent",
            title=args.tag or args.strategy,
        )
        curves = {
            k: [t[k] for t in trains]
            for k in ("loss", "class_loss", "p_class_loss", "re_loss", "dead_cam")
        }
        save_curves(
            run.figure("loss"),
            curves,
            xlabel="log line",
            ylabel="",
            title=args.tag or args.strategy,
        )
    if last.get("map") is not None:
        numbers = f"mAP {last['map']:.1f} % (best {last['best map']:.1f} %)"
        run.print(f"{args.strategy}: {numbers} on {data.domain}{without(last)}")
        if left_out(last["ap"]):
            run.print(left_out(last["ap"]))
    run.finish(**summary)
    return summary
