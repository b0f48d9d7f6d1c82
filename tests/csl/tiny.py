"""A COCO folder of coloured squares: 45 training and 13 test images of 32 pixels, 5 classes,
learnt in seconds."""

import json

import numpy as np
from PIL import Image

NAMES = ("person", "bicycle", "car", "motorcycle", "airplane")
COLOURS = np.array(
    [(250, 40, 40), (40, 250, 40), (60, 60, 250), (250, 250, 40), (250, 60, 250)], np.uint8
)


def write_coco(root, train=45, val=13, size=32):
    """Instances json and images in the layout of COCO 2014.

    The first training image has no annotation.
    """
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        (root / f"{split}2014").mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 80, (size, size, 3), dtype=np.uint8)
            classes = rng.permutation(5)[: rng.integers(1, 4)] if (split, i) != ("train", 0) else []
            for c in classes:
                y, x = rng.integers(0, size - 10, 2)
                pixels[y : y + 10, x : x + 10] = COLOURS[c]
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": int(c) + 1,
                }
                annotations.append(
                    annotation | {"bbox": [int(x), int(y), 10, 10], "area": 100, "iscrowd": 0}
                )
            name = f"COCO_{split}2014_{i + 1:012d}.png"
            Image.fromarray(pixels).save(root / f"{split}2014" / name)
            images.append({"id": i + 1, "file_name": name, "width": size, "height": size})
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))
    return root


def arguments(data, out, *more):
    """Flags of a small run on `data`: 6 steps an epoch."""
    fixed = "--model_name tresnet_tiny --image_size 32 --batch_size 8 --workers 0"
    fixed += " --lr 5e-3 --epochs 2 --cpu --likelihood_topk 1 --augment paper"
    labels = "--simulate_partial_type rps --simulate_partial_param 0.4"
    return [
        *fixed.split(),
        *labels.split(),
        "--data",
        str(data),
        "--output_dir",
        str(out),
        "--model_path",
        "",
        *more,
    ]
