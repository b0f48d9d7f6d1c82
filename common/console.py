"""The commands of an installed wheel: each runs the script of the same name, as `python -m` does.

A clone has the scripts themselves (`cd cavl && python main.py`). Without one:

    cavl-main --sample             # cavl/main.py
    wsl-samples CUB some/folder    # python -m common.samples CUB some/folder
"""

import runpy
import sys
from pathlib import Path

# Command -> module. pyproject.toml lists the same commands, all with `run`.
COMMANDS = {
    "cavl-main": "cavl.main",
    "cavl-explain": "cavl.explain",
    "oass-max": "oass.train_classification_with_puzzle_max",
    "oass-cmax": "oass.train_classification_with_puzzle_cMax_ema",
    "oass-ctopk": "oass.train_classification_with_puzzle_cTopk_ema",
    "oass-ctopk-w": "oass.train_classification_with_puzzle_cTopk_w_ema",
    "oass-infer": "oass.inference_classification",
    "oass-explain": "oass.explain",
    "oass-ablation": "oass.ablation",
    "calm-main": "calm.main",
    "calm-eval-pixel-perturb": "calm.eval_pixel_perturb",
    "calm-eval-cue-location": "calm.eval_cue_location",
    "calm-eval-wsol": "calm.eval_wsol",
    "calm-explain": "calm.explain",
    "csl-train": "csl.train",
    "csl-infer": "csl.infer",
    "csl-validate": "csl.validate",
    "mile-train": "mile.MILe",
    "mile-explain": "mile.explain",
    "wsl-data": "common.data",
    "wsl-export": "common.export",
    "wsl-samples": "common.samples",
    "wsl-shards": "common.shards",
}


def run() -> None:
    """Run the script that the program's name stands for; exit status 2 for another name."""
    name = Path(sys.argv[0]).stem
    if name not in COMMANDS:
        print(f"error: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
