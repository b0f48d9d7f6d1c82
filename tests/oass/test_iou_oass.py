"""benchmarks/iou_oass.py on masks drawn here."""

import numpy as np
import pytest
from PIL import Image

from common.cli import UserError


def test_maps_at_full_size_are_perfect_and_coarse_ones_are_not(benchmark, tmp_path, capsys):
    iou = benchmark("iou_oass")
    rng = np.random.default_rng(0)
    for k in range(3):
        mask = np.kron(rng.integers(0, 5, (6, 8)), np.ones((6, 6))).astype(
            np.uint8
        )  # class 4 is void
        Image.fromarray(mask).save(tmp_path / f"{k}.png")
    (tmp_path / "._0.png").write_bytes(b"of another system")  # hidden: no mask
    iou.main(["--masks", str(tmp_path), "--classes", "4", "--strides", "1", "16"])
    fine, coarse = (
        float(line.split("mIoU ")[1].split()[0])
        for line in capsys.readouterr().out.splitlines()[1:]
    )
    assert fine == 100 and coarse < 90
    with pytest.raises(UserError, match="at most 255"):
        iou.main(["--masks", str(tmp_path), "--classes", "256"])
    with pytest.raises(UserError, match="no PNG"):
        iou.main(["--masks", str(tmp_path / "none")])
