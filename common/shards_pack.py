"""Writes the shards that common/shards.py reads."""

import argparse
import csv
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from common.cli import OneLineParser, UserError, whole
from common.files import files_below, is_image
from common.shards import ARRAYS, FOLDER, MARKER, VERSION, name_hash

BLOCK = 512  # bytes; a tar pads its members to it


def pack(source: Path, out: Path, *, shard_bytes: int) -> int:
    """Pack a folder, or a csv and the pictures that it names, into `out`; how many pictures.

    `out` appears whole. UserError where it is there already, where nothing is to be packed, or
    where a csv names pictures outside of its folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; name a folder that is not")
    if source.is_dir():
        if (source / MARKER).is_file():
            raise UserError(f"{source}: is packed already")
        root = source
        files = sorted(files_below(source, _raise))
    else:
        root = source.parent
        files = [source, *_named_by(source)]
    pictures = [path for path in files if is_image(path)]
    others = [path for path in files if not is_image(path)]
    if not pictures:
        raise UserError(f"{source}: holds no picture to pack")
    _require_room(out, files)

    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / FOLDER).mkdir(parents=True)
        _make_folders(root, files, part)
        for path in others:
            shutil.copyfile(path, part / path.relative_to(root))
        _write(root, pictures, part, shard_bytes)
        if out.is_dir():
            out.rmdir()
        part.replace(out)
    except OSError as error:
        problem = f"{out}: cannot be written ({error.strerror or error})"
        raise UserError(f"{problem}; give another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return len(pictures)


def _raise(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _named_by(table: Path) -> list[Path]:
    """The pictures of a csv's `path` column, each once, in their order."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read as a csv ({error})") from error
    if not rows or "path" not in rows[0]:
        raise UserError(f"{table}: has no column `path`, or no row")
    found = {}
    for number, row in enumerate(rows, 2):
        name = PurePosixPath(row["path"] or "")
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{table}: line {number}: {name} lies outside of the csv's folder")
        path = table.parent / name
        if not path.is_file():
            raise UserError(f"{table}: line {number}: {path}: no such picture")
        found[path] = True
    return list(found)


def _require_room(out: Path, files: Sequence[Path]) -> None:
    """UserError where the disk has not the room, before anything is written."""
    needed = sum(path.stat().st_size + 2 * BLOCK for path in files)
    above = next(place for place in out.absolute().parents if place.exists())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise UserError(f"{out}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")


def _make_folders(root: Path, files: Sequence[Path], out: Path) -> None:
    """The folders of the source, so that a reader finds them where they were."""
    for folder in {path.parent for path in files}:
        (out / folder.relative_to(root)).mkdir(parents=True, exist_ok=True)


def _write(root: Path, pictures: Sequence[Path], out: Path, shard_bytes: int) -> None:
    """The shards, the index and, last, the marker."""
    names = [path.relative_to(root).as_posix() for path in pictures]
    shards: list[str] = []
    places = np.zeros((len(names), 3), np.int64)
    for at, (shard, offset, size) in enumerate(_places(root, names, out, shard_bytes)):
        if shard not in shards:
            shards.append(shard)
        places[at] = (len(shards) - 1, offset, size)

    hashes = np.array([name_hash(name) for name in names], np.uint64)
    order = np.argsort(hashes, kind="stable")
    encoded = [names[at].encode("utf-8", "surrogateescape") for at in order]
    starts = np.zeros(len(names) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=starts[1:])
    joined = np.frombuffer(b"".join(encoded), np.uint8)
    arrays = (hashes[order], places[order], joined, starts)
    for name, array in zip(ARRAYS, arrays, strict=True):
        np.save(out / FOLDER / f"{name}.npy", np.asarray(array))
    marker = {"version": VERSION, "pictures": len(names), "shards": shards}
    (out / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _places(
    root: Path, names: Sequence[str], out: Path, shard_bytes: int
) -> Iterator[tuple[str, int, int]]:
    """Write the pictures one after the other; shard, offset and size of each."""
    tar = None
    count = 0
    for name in tqdm(names, "packing", unit="picture", disable=not sys.stderr.isatty()):
        if tar is not None and tar.offset >= shard_bytes:
            tar.close()
            tar = None
        if tar is None:
            shard = f"shard-{count:06d}.tar"
            count += 1
            tar = tarfile.open(out / FOLDER / shard, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        info = tarfile.TarInfo(name)
        path = root / name
        info.size = path.stat().st_size
        with path.open("rb") as file:
            tar.addfile(info, file)
        padded = -(-info.size // BLOCK) * BLOCK
        yield shard, tar.offset - padded, info.size
    if tar is not None:
        tar.close()


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(prog="python -m common.shards", description=__doc__.split("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True, parser_class=OneLineParser)
    new = actions.add_parser("pack", help="pack a folder, or a csv and its pictures")
    new.add_argument("source", type=Path, metavar="FOLDER|CSV", help="what is packed")
    new.add_argument("out", type=Path, metavar="OUT", help="the new folder")
    new.add_argument("--shard_mb", type=whole(1), default=256, help="size of a shard, in MB")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Pack, and say what was written."""
    args = build_parser().parse_args(argv)
    if not args.source.exists():
        raise UserError(f"{args.source}: no such folder or csv")
    count = pack(args.source, args.out, shard_bytes=args.shard_mb * 1_000_000)
    shards = len(json.loads((args.out / MARKER).read_text(encoding="utf-8"))["shards"])
    print(f"{count} pictures in {shards} shards: {args.out}")
