"""The pictures of a run directory in TensorBoard, as the files are."""

from pathlib import Path

from PIL import Image
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

MOST = 50  # pictures: of more, the newest
LARGEST = 8_000_000  # bytes of a file


def add_figures(writer: SummaryWriter, folder: Path, step: int) -> int:
    """Add each PNG below `folder` under its name at `step`; how many. Nothing is encoded again.

    OSError where a file cannot be read.
    """
    files = [path for path in folder.rglob("*.png") if path.stat().st_size <= LARGEST]
    newest = sorted(files, key=lambda path: path.stat().st_mtime)[-MOST:]
    for path in sorted(newest):
        with Image.open(path) as image:  # reads the header alone
            width, height = image.size
            channels = len(image.getbands())
        picture = Summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=path.read_bytes(),
        )
        name = path.relative_to(folder).with_suffix("").as_posix()
        name = name.encode("utf-8", "backslashreplace").decode()  # of any bytes
        value = Summary.Value(tag=f"figures/{name}", image=picture)
        writer.file_writer.add_summary(Summary(value=[value]), step)
    return len(newest)
