"""List the offline samples, or write one: `python -m common.samples MNIST some/folder`."""

import common.interrupt  # noqa: F401

from common import samples
from common.cli import OneLineParser, UserError, folder_path, run_main, seed


def main() -> None:
    """Without arguments list the samples; with NAME and DIR draw one."""
    parser = OneLineParser(prog="python -m common.samples", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help=", ".join(samples.names()))
    help_folder = "a folder that is missing or empty"
    parser.add_argument("folder", nargs="?", metavar="DIR", type=folder_path, help=help_folder)
    help_seed = "another one draws other pictures"
    parser.add_argument("--seed", type=seed, default=samples.SEED, help=help_seed)
    args = parser.parse_args()
    if args.name is None:
        width = max(map(len, samples.names()))
        for name in samples.names():
            print(f"{name:<{width}}  {samples.REGISTRY[name].description}")
    elif args.name not in samples.names():
        raise UserError(
            f"there is no offline sample {args.name!r}; there are: {', '.join(samples.names())}"
        )
    elif args.folder is None:
        raise UserError(f"where to? python -m common.samples {args.name} DIR")
    else:
        print(f"{args.name} written to {samples.draw(args.name, args.folder, args.seed)}")


if __name__ == "__main__":
    run_main(main)
