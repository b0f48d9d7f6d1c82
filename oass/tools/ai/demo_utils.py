"""Drawing with OpenCV: heat maps, crosses, captions, mosaics. Pictures are (H,W,3) uint8 RGB."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.aliases import one_module
from common.cam import overlay
from common.checkpoint import atomic_write

one_module(__name__, "oass.tools.ai.demo_utils")

RED, WHITE, YELLOW = (255, 40, 40), (255, 255, 255), (255, 230, 0)


def colormap(cam: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A map in [0,1] over the picture, in the JET colours."""
    return overlay(image, cam)


def draw_cross(image: np.ndarray, y: int, x: int, colour: Sequence[int] = RED) -> np.ndarray:
    """The cut at a keypoint: a line through it in each direction."""
    image = np.ascontiguousarray(image)
    cv2.line(image, (x, 0), (x, image.shape[0] - 1), colour, 1)
    cv2.line(image, (0, y), (image.shape[1] - 1, y), colour, 1)
    return image


def draw_points(
    image: np.ndarray, points: Sequence[tuple[int, int]], colour: Sequence[int] = YELLOW
) -> np.ndarray:
    """Rings at [y, x]."""
    image = np.ascontiguousarray(image)
    for y, x in points:
        cv2.circle(image, (int(x), int(y)), max(2, image.shape[0] // 40), colour, 1, cv2.LINE_AA)
    return image


def caption(image: np.ndarray, text: str, side: int, band: int = 18) -> np.ndarray:
    """The picture at side x side under a band with text."""
    sized = cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)
    head = np.full((band, side, 3), 30, np.uint8)
    cv2.putText(head, text, (3, band - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.36, WHITE, 1, cv2.LINE_AA)
    return np.concatenate([head, sized])


def mosaic(rows: Sequence[Sequence[np.ndarray]], gap: int = 3) -> np.ndarray:
    """Pictures of one size in rows, shorter rows filled up."""
    columns = max(len(row) for row in rows)
    empty = np.zeros_like(rows[0][0])
    lines = []
    for row in rows:
        cells = [
            np.pad(c, ((0, gap), (0, gap), (0, 0))) for c in [*row, *[empty] * (columns - len(row))]
        ]
        lines.append(np.concatenate(cells, 1))
    return np.concatenate(lines)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a picture; UserError where it cannot be written."""
    _, content = cv2.imencode(".png", image[..., ::-1])
    atomic_write(path, content.tobytes())
