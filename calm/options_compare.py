"""The flags of compare_methods.py: its own, and which of the runs it sets itself."""

import sys
from argparse import Namespace
from collections.abc import Sequence

from calm.options_flags import build_parser, own_flags
from calm.options_names import canonical_method
from common.aliases import one_module
from common.cli import UserError, parse_given

one_module(__name__, "calm.options_compare")

ERASED = ("0.02", "0.05", "0.1", "0.3", "0.5", "0.7", "0.9")
# What the runs differ in, and what each script needs, is set here.
SET_HERE = {
    "attribution_method": "use --methods",
    "seed": "use --seeds",
    "erase_k": f"it is {' '.join(ERASED)}",
    "score_map_process": "each method has its own",
    "score_map_method": "each method has its own",
    "norm_type": "each method has its own",
    "threshold_type": "each method has its own",
    "experiment_name": "use --output_dir",
    "save_root": "use --output_dir",
    "use_load_checkpoint": "each run is trained, or gone on with",
    "load_checkpoint": "each run is trained, or gone on with",
    "is_train": "each run is trained, or gone on with",
    "resume": "each run is trained, or gone on with",
    "overwrite": "name another --output_dir",
    "override_cache": "name another --output_dir",
}


def parse_compare(argv: Sequence[str] | None = None) -> tuple[Namespace, list[str]]:
    """The flags of this script, and those that go to main.py and the evaluations."""
    argv = sys.argv[1:] if argv is None else list(argv)
    own = own_flags("compare_methods")
    parser = build_parser("compare_methods.py", own)
    if {"-h", "--help"} & set(argv):
        parser.parse_args(["--help"])
    mine, rest = own.parse_known_args(argv)
    _, given = parse_given(build_parser("compare_methods.py"), rest)
    for flag, remedy in SET_HERE.items():
        if flag in given:
            parser.error(f"--{flag} is set by compare_methods.py; {remedy}")
    try:
        mine.methods = [canonical_method(name) for name in mine.methods.split(",")]
    except ValueError as error:
        raise UserError(f"--methods {mine.methods}: {error}") from error
    if mine.fresh and not given.get("sample"):
        raise UserError("--fresh draws the offline sample anew; it needs --sample")
    return mine, rest
