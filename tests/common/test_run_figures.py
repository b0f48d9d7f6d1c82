"""The pictures of a run stand in its TensorBoard files, byte for byte."""

import struct

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from common.run import start_run
from common.run_figures import MOST
from common.rundir import make_accelerator
from tests.common.toy import settings


def pictures_of(folder) -> dict[str, tuple[int, bytes]]:
    """Tag -> (step, PNG) of the pictures in the event files: TFRecords, read as they are laid."""
    found = {}
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                if value.HasField("image"):
                    found[value.tag] = (event.step, value.image.encoded_image_string)
    return found


def finished(folder, count: int):
    args = settings(folder)
    run = start_run(args, "unused", make_accelerator(args))
    run.restore()
    for number in range(count):
        picture = np.full((4, 5 + number, 3), number, np.uint8)
        Image.fromarray(picture).save(run.figure(f"picture_{number:02}"))
    run.finish(accuracy=1.0)
    return run


def test_the_figures_of_a_run_are_read_back(tmp_path):
    run = finished(tmp_path / "run", 2)
    found = pictures_of(run.folder / "tensorboard")
    assert set(found) == {"figures/picture_00", "figures/picture_01"}
    for tag, (step, png) in found.items():
        assert step == run.progress.step
        assert png == (run.folder / f"{tag}.png").read_bytes()


def test_of_many_figures_some_stand_there(tmp_path):
    run = finished(tmp_path / "run", MOST + 3)
    assert len(pictures_of(run.folder / "tensorboard")) == MOST


def test_a_run_without_figures_has_none(tmp_path):
    run = finished(tmp_path / "run", 0)
    assert pictures_of(run.folder / "tensorboard") == {}
