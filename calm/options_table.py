"""Where each flag has an effect: in which scripts, and with which other settings.

The original's scripts take all of its flags, so ours do; one without an effect is named in the
output. A flag of ours that has no effect is an error.
"""

from collections.abc import Iterable
from typing import Any

from calm.options_names import ARCHITECTURES, GRADIENT_PROCESSES, PROCESSES
from common.aliases import one_module

one_module(__name__, "calm.options_table")

TRAINING = "training"
CHECK = "evaluation"
ERASING = "erasing"
CUES = "cues"
BOXES = "localisation"
EXPLAIN = "explain"
GALLERY = "gallery"
SCRIPTS = {
    TRAINING: "main.py",
    CHECK: "main.py --is_train=False",
    ERASING: "eval_pixel_perturb.py",
    CUES: "eval_cue_location.py",
    BOXES: "eval_wsol.py",
    EXPLAIN: "explain.py",
    GALLERY: "gallery.py",
}
PLACES = {  # of a script
    "main": TRAINING,
    "eval_pixel_perturb": ERASING,
    "eval_remove_classify": ERASING,
    "eval_cue_location": CUES,
    "eval_wsol": BOXES,
    "explain": EXPLAIN,
    "gallery": GALLERY,
}
_EVALUATIONS = (ERASING, CUES, BOXES)
_MAPS = (*_EVALUATIONS, EXPLAIN)
_NETWORK = (TRAINING, CHECK, *_MAPS)

# Where flags act; those that are not listed act everywhere.
_TABLE = (
    (_NETWORK, "architecture attribution_method use_bn large_feature_map prior_activation"),
    (_NETWORK, "use_load_checkpoint load_checkpoint"),
    ((TRAINING, CHECK), "is_train logger_type"),
    ((TRAINING, CHECK, CUES, BOXES), "frozen_features"),
    ((TRAINING,), "only_last"),
    ((TRAINING,), "proxy_training_set resize_size cache_images pretrained pretrained_path weights"),
    ((TRAINING,), "prior_gradient em_teacher ema_decay param_groups epochs lr lr_decay_frequency"),
    ((TRAINING,), "lr_classifier_ratio momentum weight_decay resume max_steps checkpoint_every"),
    ((TRAINING,), "grad_accum compile fast sync_bn"),
    ((TRAINING, CHECK, *_EVALUATIONS), "batch_size workers"),
    ((CHECK, *_EVALUATIONS, GALLERY), "image_list"),
    ((BOXES,), "mask_root iou_thresholds multi_contour_eval save_maps"),
    (_MAPS, "score_map_method score_map_process smoothing_ksize superclass_file"),
    ((*_MAPS, GALLERY), "smooth_grad_nr_iter smooth_grad_sigma integrated_grad_nr_iter ig_variant"),
    ((CUES, EXPLAIN), "norm_type"),
    ((CUES,), "threshold_type cue_protocol"),
    ((CUES, BOXES), "cam_curve_interval"),
    ((CUES, GALLERY), "foreground attribute_rule max_pairs"),
    ((ERASING,), "erase_k erase_seed erase_repeats baseline auc_steps tie_break"),
)
ACTS: dict[str, tuple[str, ...]] = {}
for _places, _flags in _TABLE:
    ACTS.update(dict.fromkeys(_flags.split(), _places))

ORIGINALS = frozenset(
    "experiment_name save_root override_cache use_load_checkpoint is_different_checkpoint "
    "proxy_training_set use_bn large_feature_map is_train pretrained pretrained_path workers "
    "batch_size epochs load_checkpoint logger_type seed dataset_name data_root metadata_root "
    "mask_root architecture attribution_method cam_curve_interval resize_size crop_size lr "
    "lr_decay_frequency lr_classifier_ratio momentum weight_decay iou_thresholds smoothing_ksize "
    "score_map_method score_map_process norm_type threshold_type smooth_grad_nr_iter "
    "smooth_grad_sigma integrated_grad_nr_iter".split()
)


_NOISY = tuple(name for name in GRADIENT_PROCESSES if "smooth" in name or "var" in name)
_GROUPED = tuple(name for name in PROCESSES if "superclass" in name)
_DEEP = tuple(name for name in ARCHITECTURES if name != "small")
_CALM = ("CALM-EM", "CALM-ML")

# What only some networks, processes or data sets have: (flag, setting, the values with which it
# acts).
ONLY_WITH = (
    ("use_bn", "architecture", ("vgg16", "inception_v3")),
    ("large_feature_map", "architecture", _DEEP),
    ("mask_root", "dataset_name", ("OpenImages",)),
    ("iou_thresholds", "dataset_name", ("CUB", "ILSVRC", "own")),
    ("multi_contour_eval", "dataset_name", ("CUB", "ILSVRC", "own")),
    ("smooth_grad_nr_iter", "score_map_process", _NOISY),
    ("smooth_grad_sigma", "score_map_process", _NOISY),
    ("integrated_grad_nr_iter", "score_map_process", ("integrated_grad",)),
    ("ig_variant", "score_map_process", ("integrated_grad",)),
    ("superclass_file", "score_map_process", _GROUPED),
    ("ema_decay", "em_teacher", ("ema",)),
)
ONLY_IN_TRAINING_WITH = (
    ("prior_activation", "attribution_method", _CALM),
    ("prior_gradient", "attribution_method", _CALM),
)


def acts_in(flag: str, script: str) -> bool:
    """Whether a flag acts in a script, whatever the other settings; main.py trains or checks."""
    place = PLACES.get(script)
    if place is None:
        return True
    places = {place, CHECK} if place == TRAINING else {place}
    return not places.isdisjoint(ACTS.get(flag, (place,)))


def without_effect(args: Any, given: Iterable[str], place: str) -> dict[str, str]:
    """{flag that was given but has no effect in `place`: where, or with what, it has one}."""
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...] = ONLY_WITH
    if place == TRAINING:
        conditions += ONLY_IN_TRAINING_WITH

    idle = {}
    for flag in sorted(given):
        places = ACTS.get(flag, (place,))
        if place not in places:
            idle[flag] = f"acts in {', '.join(SCRIPTS[name] for name in places)}"
            continue
        for name, setting, values in conditions:
            # The gallery has its own processes, and the networks of its runs.
            is_open = place == GALLERY and setting in ("score_map_process", "architecture")
            value = getattr(args, setting)
            # A network of timm or torchvision says itself whether its map can be large.
            is_open |= flag == "large_feature_map" and value not in ARCHITECTURES
            if name == flag and not is_open and value not in values:
                known = " or ".join(name for name in values if name != "own")
                idle[flag] = f"acts with --{setting} {known}, not {value}"
    return idle
