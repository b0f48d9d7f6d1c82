"""The claims of the five papers, one entry each.

Patterns match whole cells of the results files, case ignored. Statements hold no number: those come
from the files. `source` says where the paper claims it.
"""

from sidebyside.claims import Claim

_IMAGES = r".*mnist.*|cifar.*"
_MAT = r"(lost|msrc-?v2|bird-?song|soccer player|yahoo! news|mirflickr).*|PLL.*"
_CALM_EM = r"calm[-_ ]em.*"
_CALM_ML = r"calm[-_ ]ml.*"
_CAM = r"cam( .*)?"
_CSL = r"(csl|selective).*"
_IGNORE = r"ignore.*"
_NEGATIVE = r"negative.*"
_OASS = r"(oass |csi ?[+,] ?)?"
_OBJECT_AWARE = rf"{_OASS}(cmax|ctopk([-_ ]?w)?)( .*)?"
_ACCURACY = r".*acc(uracy)?( .*)?|acc@?1.*|top-1.*"
_CAVL_RUN = "python main.py -compare cavl,uniform,rc,proden,cc -seeds 0,1,2 -ep 50 --data_dir DATA"
_CAVL_MAT = (
    "python main.py -ds lost -ep 100 -compare cavl,rc,proden,cc,uniform -seeds 0,1,2 --data_dir "
    "DATA"
)
_OASS_NOTE = "On composed photographs: ten epochs of a small network without ImageNet weights."
_OASS_RUN = (
    "python ablation.py --strategies gap,none,max,cMax,cTopk,cTopk-w --seeds 0,1,2 --data_dir DATA"
)

_CALM_FLAGS = "--architecture=resnet50 --dataset=CUB --use_bn=True --large_feature_map=True"
_CALM_RUN = f"python main.py --experiment_name=em/ --attribution_method=CALM_EM {_CALM_FLAGS}"
_CALM_MAPS = (
    "--score_map_process=jointll --norm_type=clipping --use_load_checkpoint=True "
    "--load_checkpoint=save/em/"
)
_CALM_CUES = (
    f"{_CALM_RUN} && python eval_cue_location.py --attribution_method=CALM_EM {_CALM_FLAGS} "
    f"{_CALM_MAPS}"
)
_CALM_ERASE = _CALM_CUES.replace("eval_cue_location", "eval_pixel_perturb")
_CALM_BOXES = _CALM_CUES.replace("eval_cue_location", "eval_wsol")
_CSL_RUN = (
    "python train.py --compare all --schemes fpc,rps --seeds 0,1,2 --data=DATA/COCO_2014 "
    "--model-path=mtresnet_21k"
)
_CSL_NOTE = (
    "On composed photographs, twenty epochs of a small network: the means stand in the paper's "
    "order."
)
_CSL_OPEN = (
    "python train.py --recipe csl_fpc --data=DATA/OpenImages --do_bottleneck_head --image-size=224"
)
_MILE_RUN = (
    "python MILe.py --dataset mnist --mnist_path DATA --model resnet18-10 --total_steps 10000"
)
_MILE_RUN += " --compare softmax,sigmoid,MILe --seeds 0,1,2"

CAVL = (
    Claim(
        "cavl",
        "better than averaging",
        (
            "Training on the candidate with the largest class activation value beats averaging "
            "over the candidates."
        ),
        {"method": "cavl"},
        {"method": "uniform"},
        {"dataset": _IMAGES, "metric": _ACCURACY},
        source="abstract; method",
        command=_CAVL_RUN,
        note=(
            "Above it with every seed on CIFAR-10 too (13 epochs), where three seeds lie too far "
            "apart to decide."
        ),
    ),
    Claim(
        "cavl",
        "state of the art",
        "CAVL is more accurate than earlier deep partial-label methods (RC, PRODEN, CC).",
        {"method": "cavl"},
        {"method": "rc|proden|cc"},
        {"dataset": _IMAGES, "metric": _ACCURACY},
        source="abstract",
        command=_CAVL_RUN,
    ),
    Claim(
        "cavl",
        "any input",
        (
            "Unlike CAM, the class activation value also works where inputs are not images: "
            "real-world partial-label sets."
        ),
        {"method": "cavl"},
        {"method": "uniform"},
        {"dataset": _MAT, "metric": _ACCURACY},
        source="abstract",
        command=_CAVL_MAT,
        note=(
            "With five epochs of averaging first (`-warmup 5`: ours, not the paper's) it beats "
            "averaging on each."
        ),
    ),
    Claim(
        "cavl",
        "CAM selects well",
        (
            "The class activation map picks the true label among the candidates better than the "
            "model's own output."
        ),
        {"method": "cam.*"},
        {"method": "output.*|logit.*|softmax.*"},
        {"metric": r".*(select|disambiguat|picked).*"},
        source="abstract, earlier version",
        command="python main.py -ds cifar10 -mo resnet -selection_curve 1000 --data_dir DATA",
    ),
)

OASS = (
    Claim(
        "oass",
        "object-aware tiles",
        "Cutting tiles at object keypoints (cMax, cTopk, cTopk-w) beats training without tiles.",
        {"method": _OBJECT_AWARE},
        {"method": rf"{_OASS}(csi( only.*)?|none|baseline.*)"},
        {"metric": r"mAP.*"},
        source="abstract",
        command=_OASS_RUN,
        note=_OASS_NOTE,
    ),
    Claim(
        "oass",
        "cMax over Max",
        "Keypoints of each class's own map (cMax) beat the maximum over all maps (Max).",
        {"method": rf"{_OASS}cmax( .*)?"},
        {"method": rf"{_OASS}max( .*)?"},
        {"metric": r"mAP.*"},
        source="README, figure 2",
        command=_OASS_RUN,
        note=_OASS_NOTE,
    ),
    Claim(
        "oass",
        "cTopk over cMax",
        "The centre of several peaks (cTopk) beats the single maximum (cMax).",
        {"method": rf"{_OASS}ctopk( .*)?"},
        {"method": rf"{_OASS}cmax( .*)?"},
        {"metric": r"mAP.*"},
        source="README, figure 2",
        command=_OASS_RUN,
        note=_OASS_NOTE,
    ),
    Claim(
        "oass",
        "cTopk-w over cTopk",
        "Weighing the peaks by their height (cTopk-w) beats the plain centre (cTopk).",
        {"method": rf"{_OASS}ctopk[-_ ]?w( .*)?"},
        {"method": rf"{_OASS}ctopk( .*)?"},
        {"metric": r"mAP.*"},
        source="README, figure 2",
        command=_OASS_RUN,
        note=_OASS_NOTE,
    ),
    Claim(
        "oass",
        "class-specific instances",
        "Classifying class-specific instances beats classifying globally pooled features.",
        {"method": rf"{_OASS}(csi( only.*)?|none)"},
        {"method": rf"{_OASS}(gap|pooled).*"},
        {"metric": r"mAP.*"},
        source="abstract; figure 1",
        command=_OASS_RUN,
        note=_OASS_NOTE,
    ),
)

CALM = (
    Claim(
        "calm",
        "cue localisation",
        "CALM's maps lie on the parts that tell two classes apart more often than CAM's.",
        {"method": _CALM_EM},
        {"method": _CAM},
        {"dataset": "cub.*", "metric": "mPxAP.*"},
        source="README, cue localisation table",
        command=_CALM_CUES,
    ),
    Claim(
        "calm",
        "remove and classify",
        (
            "Erasing the pixels CALM ranks first destroys the prediction faster than erasing CAM's "
            "(smaller R_k)."
        ),
        {"method": _CALM_EM},
        {"method": _CAM},
        {"metric": r".*\bR_?\{?(k|\d).*"},
        higher=False,
        source="README, remove-and-classify chart",
        command=_CALM_ERASE,
    ),
    Claim(
        "calm",
        "EM explains better than ML",
        (
            "Trained by expectation maximisation, CALM localises cues better than trained by "
            "marginal likelihood."
        ),
        {"method": _CALM_EM},
        {"method": _CALM_ML},
        {"metric": "mPxAP.*"},
        source="README, cue localisation table",
        command=_CALM_CUES,
    ),
    Claim(
        "calm",
        "EM classifies better than ML on CUB",
        "On CUB, CALM-EM is the more accurate classifier of the two.",
        {"method": _CALM_EM},
        {"method": _CALM_ML},
        {"dataset": "cub.*", "metric": _ACCURACY},
        source="README, accuracy table",
        command=_CALM_RUN,
    ),
    Claim(
        "calm",
        "object localisation",
        "CALM localises whole objects better than CAM without box labels.",
        {"method": _CALM_EM},
        {"method": _CAM},
        {"metric": r"MaxBoxAcc.*|PxAP.*"},
        source="abstract",
        command=_CALM_BOXES,
    ),
)

CSL = (
    Claim(
        "csl",
        "best with few labels a class",
        (
            "With a fixed number of annotations a class (FPC), selective training beats ignoring "
            "and assuming negatives."
        ),
        {"method": _CSL},
        {"method": rf"{_IGNORE}|{_NEGATIVE}"},
        {"setting": r"fpc.*", "metric": r"mAP.*"},
        source="README, COCO table",
        command=_CSL_RUN,
        note=_CSL_NOTE,
    ),
    Claim(
        "csl",
        "best with random labels",
        (
            "With labels missing at random (RPS), selective training beats ignoring and assuming "
            "negatives."
        ),
        {"method": _CSL},
        {"method": rf"{_IGNORE}|{_NEGATIVE}"},
        {"setting": r"rps.*", "metric": r"mAP.*"},
        source="README, COCO table",
        command=_CSL_RUN,
    ),
    Claim(
        "csl",
        "few labels: negatives beat ignoring",
        "Under FPC, assuming negatives is better than ignoring what is not annotated.",
        {"method": _NEGATIVE},
        {"method": _IGNORE},
        {"setting": r"fpc.*", "metric": r"mAP.*"},
        source="README, COCO table",
        command=_CSL_RUN,
        note=_CSL_NOTE,
    ),
    Claim(
        "csl",
        "random labels: ignoring beats negatives",
        "Under RPS, ignoring what is not annotated is better than assuming negatives.",
        {"method": _IGNORE},
        {"method": _NEGATIVE},
        {"setting": r"rps.*", "metric": r"mAP.*"},
        source="README, COCO table",
        command=_CSL_RUN,
    ),
    Claim(
        "csl",
        "Open Images",
        "On Open Images, selective training beats ignoring and assuming negatives.",
        {"method": _CSL},
        {"method": rf"{_IGNORE}|{_NEGATIVE}"},
        {"dataset": r"open ?images.*", "metric": r"mAP.*"},
        source="README, Open Images table",
        command=_CSL_OPEN,
    ),
    Claim(
        "csl",
        "prior from ignoring",
        (
            "A network trained by ignoring ranks the frequent classes better than one trained with "
            "assumed negatives."
        ),
        {"method": _IGNORE},
        {"method": _NEGATIVE},
        {"metric": r".*(prior|top[- ]?(10|ten)|rank correlation).*"},
        source="README, top ten classes",
        command=_CSL_RUN,
    ),
)

MILE = (
    Claim(
        "mile",
        "multi-label quality",
        (
            "Iterated learning finds more of the labels that are true of an image (F1) than "
            "standard training."
        ),
        {"method": r"mile.*"},
        {"method": r"softmax.*|sigmoid.*"},
        {"metric": r".*F1.*"},
        source="abstract",
        command=_MILE_RUN,
        note=(
            "On real digits F1 at a threshold rises, the ranking does not; with k 20:20 the sets "
            "hold nearly all."
        ),
    ),
    Claim(
        "mile",
        "accuracy",
        "Iterated learning is more accurate on the single annotated label than standard training.",
        {"method": r"mile.*"},
        {"method": r"softmax.*|sigmoid.*"},
        {"metric": _ACCURACY},
        source="abstract",
        command=_MILE_RUN,
    ),
    Claim(
        "mile",
        "label noise",
        "Trained on noisy web images (WebVision), it is more accurate than standard training.",
        {"method": r"mile.*"},
        {"method": r"softmax.*|sigmoid.*|standard.*"},
        {"dataset": r".*webvision.*"},
        source="abstract",
        command=_MILE_RUN,
    ),
)

CLAIMS = (*CAVL, *OASS, *CALM, *CSL, *MILE)
