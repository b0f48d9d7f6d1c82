"""Readers, transforms, AP's relatives, id lists, the sample: hand-made cases and every error of
section i.
"""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import UserError
from common.data import CorruptImage
from oass import evaluate_metrics as E
from oass import prepare_voc
from oass import train_classification_with_puzzle_cMax_ema as cmax
from oass.core.datasets import Iterator, VOC_Dataset_For_Classification, VOC_Dataset_For_Testing_CAM
from oass.core.keypoints import upsample_cams
from oass.data import locate_voc
from oass.data_randaugment import OPERATIONS, RandAugmentMC
from oass.data_transforms import EvalTransform, Picture, TrainTransform, crop_bytes, normalise
from oass.data_voc import CLASS_NAMES, META, find_split, read_mask, read_objects
from oass.evaluate import Scores, label_map, measure
from oass.report import describe_data
from oass.tools.ai import augment_utils as A
from oass.tools.ai import torch_utils as T
from oass.tools.general.xml_utils import read_xml


def write_devkit(folder, xml, name="2008_000001", size=(20, 10)):
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(folder / "JPEGImages" / f"{name}.jpg")
    (folder / "Annotations" / f"{name}.xml").write_text(xml)
    (folder / "ImageSets/Main/train.txt").write_text(f"{name} -1\n")
    return folder


def xml_object(name, box, difficult=0):
    corners = "".join(
        f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    content = f"<name>{name}</name><difficult>{difficult}</difficult>"
    return f"<object>{content}<bndbox>{corners}</bndbox></object>"


def annotation(*objects, size="<size><width>20</width><height>10</height></size>"):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def test_boxes_are_numbers_of_any_notation(tmp_path):
    """1.2e+01 is 12: read as 1 the box would lie elsewhere, or have no width and lose its label."""
    bird = xml_object("bird", ("1.2e+01", "3.0e+00", "1.9e+01", "4.0E1"))
    root = write_devkit(
        tmp_path, annotation(bird, xml_object("cat", (" 2 ", "-0.5", "7.99", "+5")))
    )
    path = root / "Annotations/2008_000001.xml"
    assert [o.box for o in read_objects(path)] == [(12, 3, 19, 9), (2, 0, 7, 5)]
    assert read_xml(path)[1] == ["bird", "cat"]
    for text in ("nan", "inf", "1e999", "twelve", "", "0x10"):
        path.write_text(annotation(xml_object("bird", (text, 1, 5, 5))))
        with pytest.raises(UserError, match="2008_000001.xml: xmin: expected a finite number"):
            read_objects(path)


def test_a_box_without_width_or_height_keeps_its_label_and_is_said(tmp_path, capsys):
    dog, cow = (
        xml_object("dog", (3, 3, 3, 8), 1),
        xml_object("cow", (25, 1, 30, 9)),
    )  # no width; beside the picture
    ox = xml_object("sheep", (9, 2, 4, 8))  # from right to left
    root = write_devkit(tmp_path, annotation(xml_object("cat", (1, 1, 5, 5)), dog, cow, ox))
    data = VOC_Dataset_For_Classification(root, "train")
    present = {CLASS_NAMES[c] for c in np.flatnonzero(data.split.labels[0])}
    assert (
        present == {"cat", "dog", "cow", "sheep"}
        and data.split.only_difficult[0, CLASS_NAMES.index("dog")]
    )
    flat = ("2008_000001 (dog)", "2008_000001 (cow)", "2008_000001 (sheep)")
    assert data.split.without_area == flat
    assert (
        "labels count: 3, 2008_000001 (dog), 2008_000001 (cow), 2008_000001 (sheep)"
        in describe_data(data)
    )
    assert read_xml(root / "Annotations/2008_000001.xml")[1] == [
        "cat",
        "sheep",
    ]  # the released function, as it was

    peaks = torch.full((1, 20, 2), 2, dtype=torch.int64)  # in the cat's box: one pair, one hit
    scores = Scores(torch.zeros(1, 20), peaks, torch.ones(1, 20, dtype=torch.bool))
    assert measure(scores, data.split)["pointing"] == 1


def test_an_id_that_comes_twice_is_refused_by_name(devkit, tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("2008_000003 1\n\n2008_000004 1\n2008_000003 -1\n")
    with pytest.raises(
        UserError, match=r"mine.txt: '2008_000003' stands there twice \(lines 1 and 4\)"
    ):
        VOC_Dataset_For_Classification(devkit, own)


@pytest.mark.parametrize("content", ["", "\n  \n\n"])
@pytest.mark.parametrize("flag", ["--train_domain", "--val_domain"])
def test_an_empty_list_is_refused_at_the_start(flag, content, small, tmp_path):
    own = tmp_path / "none.txt"
    own.write_text(content)
    with pytest.raises(UserError, match="none.txt: an empty list"):
        cmax.main([*small, flag, str(own), "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_training_images_without_any_object_are_refused_at_the_start(small, tmp_path):
    own = tmp_path / "odd.txt"
    own.write_text("2008_000001\n")  # the sample's picture without an object
    with pytest.raises(UserError, match="odd.txt: none of its 1 images has an object"):
        cmax.main(
            [
                *small,
                "--train_domain",
                str(own),
                "--batch_size",
                "1",
                "--output_dir",
                str(tmp_path / "run"),
            ]
        )


def test_a_mask_of_another_value_is_named(tmp_path):
    Image.fromarray(np.array([[0, 20, 255], [1, 128, 0]], np.uint8)).save(tmp_path / "mask.png")
    message = r"mask.png: the mask holds 128 at row 1, column 1; expected 0 to 20, or 255 for void"
    with pytest.raises(UserError, match=message):
        read_mask(tmp_path / "mask.png")


def test_boxes_and_pictures_are_in_the_frame_of_the_stored_pixels(tmp_path):
    root = write_devkit(tmp_path, annotation(xml_object("cat", (1, 1, 19, 9)), size=""))
    path = root / "JPEGImages/2008_000001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter in every viewer
    Image.open(path).save(path, exif=exif)
    data = VOC_Dataset_For_Classification(root, "train")
    assert data[0][0].size == (20, 10) and data.split.objects[0][0].box == (1, 1, 19, 9)


def test_a_very_long_picture_keeps_a_pixel():
    random.seed(0)
    assert A.RandomResize(64, 64)(Image.new("RGB", (9000, 2))).size == (64, 1)
    assert crop_bytes(Image.new("RGB", (1, 5000)), 64, at_random=True).pixels.shape == (3, 64, 64)


def test_half_precision_is_interpolated_in_float32():
    maps = torch.rand(1, 2, 4, 4)
    for dtype in (torch.float16, torch.bfloat16):
        for call in (lambda m: upsample_cams(m, 8), lambda m: T.resize_for_tensors(m, (8, 8))):
            found = call(maps.to(dtype))
            assert found.dtype == dtype
            torch.testing.assert_close(found, call(maps.to(dtype).float()).to(dtype))


def test_xml_is_clipped_truncated_and_thinned(tmp_path):
    cat, dog = xml_object("cat", ("1.9", 2, 99, 99)), xml_object("dog", (3, 3, 3, 8), 1)
    root = write_devkit(tmp_path, annotation(cat, dog, xml_object("cow", (25, 1, 30, 9))))
    boxes, classes = read_xml(root / "Annotations/2008_000001.xml")
    assert classes == ["cat"] and boxes.dtype == np.float32 and boxes.tolist() == [[1, 2, 19, 9]]
    root = write_devkit(tmp_path, annotation(cat, size=""))  # asks the picture
    assert read_xml(root / "Annotations/2008_000001.xml")[0].tolist() == [[1, 2, 19, 9]]
    root = write_devkit(tmp_path, annotation())
    assert read_xml(root / "Annotations/2008_000001.xml")[0].shape == (0, 4)
    root = write_devkit(tmp_path, "<annotation>")
    with pytest.raises(UserError, match="2008_000001.xml: line 1, column 13: not xml"):
        read_objects(root / "Annotations/2008_000001.xml")
    root = write_devkit(tmp_path, annotation("<object><name>cat</name></object>"))
    with pytest.raises(UserError, match="2008_000001.xml: not a readable VOC annotation"):
        read_objects(root / "Annotations/2008_000001.xml")


def test_the_root_may_lie_two_levels_down_and_a_path_may_be_the_domain(devkit, tmp_path):
    kit = devkit / "VOCdevkit" / "VOC2012"
    for root in (kit, kit.parent, devkit):
        data = VOC_Dataset_For_Classification(root, "train_aug")
        assert data.root == kit and len(data) == 24
    image, label = data[3]
    assert image.size == (80, 48) and data[4][0].size == (
        48,
        80,
    )  # the landscape and the portrait picture
    assert label.dtype == torch.float32 and label.shape == (20,)
    assert data.split.labels[0].sum() == 0 and data.split.only_difficult[1].sum() == 1
    assert (data.split.labels.sum(0) > 0).sum() >= 15
    own = tmp_path / "mine.txt"
    own.write_text("2008_000003\n\n2008_000004\n")
    assert VOC_Dataset_For_Classification(devkit, own).split.ids == ["2008_000003", "2008_000004"]


@pytest.mark.parametrize("reader", [VOC_Dataset_For_Classification, VOC_Dataset_For_Testing_CAM])
def test_a_label_is_the_callers_own(reader, devkit):
    data = reader(devkit, "val")
    label = data[3][1]
    before = label.clone()
    assert before.any()
    label.zero_()
    assert torch.equal(data[3][1], before) and torch.equal(reader(devkit, "val")[3][1], before)


def test_without_train_aug_voc_train_serves_and_is_named(devkit, tmp_path):
    kit = tmp_path / "VOC2012"
    shutil.copytree(devkit / "VOCdevkit" / "VOC2012", kit)
    for kind in ("Main", "Segmentation"):
        (kit / "ImageSets" / kind / "train_aug.txt").unlink()
    assert VOC_Dataset_For_Classification(kit, "train_aug").domain == "train"
    (kit / "ImageSets/Segmentation/trainaug.txt").write_text("2008_000005\n")
    assert len(VOC_Dataset_For_Classification(kit, "train_aug")) == 1
    with pytest.raises(UserError, match="no list 'nothing'"):
        find_split(kit, "nothing")


def test_missing_files_are_counted_before_training(devkit, tmp_path):
    kit = tmp_path / "VOC2012"
    shutil.copytree(devkit / "VOCdevkit" / "VOC2012", kit)
    (kit / "JPEGImages/2008_000007.jpg").unlink()
    (kit / "Annotations/2008_000009.xml").unlink()
    with pytest.raises(UserError, match=r"2 files .* are missing, first .*2008_000007.jpg"):
        VOC_Dataset_For_Classification(kit, "train_aug")
    write_devkit(tmp_path / "x", annotation(xml_object("unicorn", (1, 1, 5, 5))))
    with pytest.raises(
        UserError, match=r"2008_000001.xml: unknown class 'unicorn'; known are aeroplane"
    ):
        VOC_Dataset_For_Classification(tmp_path / "x", "train")
    with pytest.raises(UserError, match="nowhere does not exist.*VOCtrainval_11-May-2012.tar"):
        VOC_Dataset_For_Classification(tmp_path / "nowhere", "train")


def test_a_wrong_data_dir_is_answered_in_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match="^--data_dir .*nowhere does not exist.*VOCtrainval.*--sample"
    ) as nowhere:
        locate_voc(str(tmp_path / "nowhere"), False)
    with pytest.raises(
        UserError, match="^VOC2012 is not in --data_dir .*VOCtrainval.*--sample"
    ) as empty:
        locate_voc(str(tmp_path), False)
    for found in (nowhere, empty):
        assert len(f"error: {found.value}") - len(str(tmp_path)) <= 160
    with pytest.raises(UserError, match="^~nobody-here/x does not exist: there is no home"):
        locate_voc("~nobody-here/x", False)


def test_the_test_list_has_no_annotations(devkit):
    data = VOC_Dataset_For_Classification(devkit, "test", labels="if present")
    assert not data.has_labels and len(data) == 3
    with pytest.raises(UserError, match="missing"):
        VOC_Dataset_For_Classification(devkit, "test")


def test_pictures_of_every_mode_become_rgb_and_broken_ones_are_named(tmp_path):
    root = write_devkit(tmp_path, annotation(xml_object("cat", (1, 1, 5, 5))))
    path = root / "JPEGImages/2008_000001.jpg"
    for mode in ("L", "CMYK"):
        Image.new(mode, (20, 10)).save(path)
        assert VOC_Dataset_For_Classification(root, "train")[0][0].mode == "RGB"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptImage, match="2008_000001.jpg"):
        VOC_Dataset_For_Classification(root, "train")[0]


def test_masks_and_their_absence(devkit):
    data = VOC_Dataset_For_Testing_CAM(devkit, "val")
    image, label, mask = data[2]
    assert mask.shape == image.size[::-1] and mask.dtype == np.int64
    assert set(np.unique(mask)) - {0} == {c + 1 for c in np.flatnonzero(label)}
    no_mask = VOC_Dataset_For_Testing_CAM(devkit, "test", labels="if present")
    assert (no_mask[0][2] == 255).all()


def test_iterator_starts_again():
    loader = Iterator(torch.utils.data.DataLoader(range(3), batch_size=2))
    assert [loader.get().tolist() for _ in range(3)] == [[0, 1], [2], [0, 1]]


@pytest.mark.parametrize("side", [(37, 53), (90, 70), (64, 64)])
def test_bytes_normalised_on_the_device_equal_the_float_pipeline(side):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*side, 3), dtype=np.uint8))
    for seed in range(5):
        random.seed(seed)
        wanted = A.Transpose()(A.RandomCrop(64)(A.Normalize()(image)))
        random.seed(seed)
        pixels, inside = crop_bytes(image, 64, at_random=True)
        got = normalise(Picture(pixels[None], inside[None]), torch.device("cpu"))[0]
        torch.testing.assert_close(got, torch.from_numpy(wanted), rtol=1e-5, atol=1e-6)
    data = {"image": image, "mask": np.zeros(side, np.int64)}
    data = A.Transpose_For_Segmentation()(
        A.Top_Left_Crop_For_Segmentation(64)(A.Normalize_For_Segmentation()(data))
    )
    got = normalise(Picture(*(t[None] for t in EvalTransform(64)(image))), torch.device("cpu"))[0]
    torch.testing.assert_close(got, torch.from_numpy(data["image"]), rtol=1e-5, atol=1e-6)


def test_augmentations_draw_from_their_seeds():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    for name, (operation, low, high) in OPERATIONS.items():
        assert operation(image, (low + high) / 2).size == image.size, name

    def draw(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        transform = TrainTransform(64, 48, 80, "colorjitter_randaugment")
        return transform(image).pixels

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    white = Image.new("RGB", (64, 64), "white")
    assert (np.asarray(RandAugmentMC(0, 10)(white)) == 0).any()  # the square comes always


def test_ap_without_positives_ties_and_relatives():
    scores = np.array([[0.9, 0.5], [0.8, 0.5], [0.1, 0.5]])
    labels = np.array([[0.0, 0], [1, 0], [1, 0]])
    ap = E.average_precision(scores, labels)
    assert ap[0] == pytest.approx((1 / 2 + 2 / 3) / 2) and np.isnan(ap[1])
    assert E.mean_average_precision(scores, labels) == pytest.approx(ap[0])
    assert E.average_precision_voc2010(scores, labels)[0] == pytest.approx(2 / 3)
    tied = np.array([[0.5], [0.5]]), np.array([[0.0], [1.0]])
    assert E.average_precision(*tied)[0] == 0.5 and E.average_precision_ties(*tied)[0] == 0.5
    assert E.average_precision(tied[0], tied[1][::-1])[0] == 1.0  # stable: the data's order
    ignore = np.array([[True, False], [False, False], [False, False]])
    assert E.average_precision_ignoring(scores, labels, ignore)[0] == 1.0
    assert np.isnan(E.mean_average_precision(scores, labels * 0))


def test_ap_takes_tensors_of_any_kind_and_small_integers():
    scores, labels = torch.tensor([[3.0], [1], [2]]), torch.tensor([[0.0], [1], [1]])
    want = (1 / 2 + 2 / 3) / 2
    for kind in (torch.float32, torch.bfloat16, torch.float16, torch.uint8):
        ap = E.average_precision(scores.to(kind), labels.to(kind))
        assert ap.dtype == torch.float64 and ap.item() == pytest.approx(want)
    assert E.average_precision(
        scores.requires_grad_(), labels.requires_grad_()
    ).item() == pytest.approx(want)
    scores, labels = scores.detach().numpy().astype(np.uint8), labels.detach()
    for function in (E.average_precision, E.average_precision_voc2010):
        assert function(scores, labels) == function(scores.astype(float), labels)
    assert E.average_precision(scores.tolist(), labels.tolist())[0] == pytest.approx(want)


def test_measure_counts_pointing_difficult_and_whole_batches(devkit):
    split = VOC_Dataset_For_Classification(devkit, "val").split
    n, C = split.labels.shape
    peaks = torch.zeros(n, C, 2, dtype=torch.int64)
    for i, objects in enumerate(split.objects):
        for o in objects:
            peaks[i, CLASS_NAMES.index(o.name)] = torch.tensor([o.box[1] + 1, o.box[0] + 1])
    logits = torch.from_numpy(split.labels) * 4 - 2
    perfect = measure(Scores(logits, peaks, torch.ones(n, C, dtype=torch.bool)), split)
    assert perfect["map"] == 100 and perfect["pointing"] == 1 and perfect["map voc2010"] == 100
    dead = measure(Scores(logits, peaks, torch.zeros(n, C, dtype=torch.bool)), split, drop_last=4)
    assert dead["pointing"] == 0 and dead["classes"] == int((split.labels[:8].sum(0) > 0).sum())
    doubtful = split._replace(only_difficult=split.labels > 0)
    assert np.isnan(
        measure(Scores(logits, peaks, peaks[..., 0] >= 0), doubtful, difficult="ignore")["map"]
    )


def test_mask_iou_by_hand():
    count = E.Calculator_For_mIoU(["a", "b"])
    truth = np.array([[0, 0, 1, 1], [0, 255, 1, 2]])
    count.add(np.array([[0, 1, 1, 1], [0, 0, 1, 1]]), truth)
    assert count.iou().tolist() == [2 / 3, 3 / 5, 0]
    assert count.get()[1] == pytest.approx(100 * 3 / 10)
    cams = np.array([[[0.9, 0.1]], [[0.2, 0.95]]])
    assert label_map(cams, np.array([1.0, 0]), 0.3).tolist() == [[1, 0]]


def test_small_functions(tmp_path):
    assert T.one_hot_embedding([0, 2], 3).tolist() == [1, 0, 1]
    entropy = T.shannon_entropy_loss(torch.zeros(2, 3))
    assert entropy.item() == pytest.approx(3 * 0.5 * np.log(2), rel=1e-4)
    assert T.shannon_entropy_loss(torch.zeros(0, 3)).item() == 0
    assert T.resize_for_tensors(torch.rand(1, 2, 3, 3), (6, 6)).shape == (1, 2, 6, 6)
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    T.save_model(a, tmp_path / "m.pth")
    T.load_model(b, tmp_path / "m.pth")
    assert torch.equal(a.weight, b.weight) and T.calculate_parameters(a) == 6e-6
    T.set_seed(3)
    assert T.get_numpy_from_tensor(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert META["classes"] == 20 == len(CLASS_NAMES) and META["color_dict"]["aeroplane"] == [
        128,
        0,
        0,
    ]


def test_prepare_voc_joins_the_lists(devkit, tmp_path, capsys, monkeypatch):
    sbd = tmp_path / "sbd"
    sbd.mkdir()
    (sbd / "train.txt").write_text("2012_9\n2009_000001\n")
    (sbd / "val.txt").write_text("2012_8\n")
    flags = ["--data_dir", str(devkit), "--to", str(tmp_path / "lists")]
    prepare_voc.main([*flags, "--sbd", str(sbd)])
    ids = (tmp_path / "lists/train_aug.txt").read_text().split()
    assert ids[-2:] == ["2012_8", "2012_9"] and len(ids) == 12 and "2009_000001" not in ids
    assert "not the official 10582" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        # an unset $your_dir leaves the bare flag
        prepare_voc.main(["--to", str(tmp_path / "lists"), "--data_dir"])
    with pytest.raises(UserError, match="no train.txt"):
        prepare_voc.main([*flags, "--sbd", str(tmp_path)])


def test_official_lists_are_known_by_count_and_sum():
    assert {name: count for name, (count, _) in prepare_voc.KNOWN.items()} == {
        "train": 1464,
        "val": 1449,
        "test": 1456,
        "train_aug": 10582,
    }
    assert all(len(known) == 64 for _, known in prepare_voc.KNOWN.values())
    assert (
        prepare_voc.digest(["b", "a"])
        == prepare_voc.digest(["a", "b"])
        != prepare_voc.digest(["a"])
    )


def test_the_sample_is_an_official_devkit(tmp_path):
    from common import samples

    with pytest.MonkeyPatch.context() as patch:
        from common.samples import voc

        for name, count in {
            "NUM_TRAIN": 5,
            "NUM_TRAIN_AUG": 6,
            "NUM_VAL": 4,
            "NUM_TEST": 2,
        }.items():
            patch.setattr(voc, name, count)
        folder = samples.draw("VOC2012", tmp_path / "s")
    assert json.loads((folder / "SAMPLE.json").read_text())["name"] == "VOC2012"
    kit = folder / "VOCdevkit" / "VOC2012"
    assert samples.is_sample(kit) and len(list((kit / "SegmentationClass").iterdir())) == 10
    text = (kit / "Annotations/2008_000003.xml").read_text()
    assert "<xmin>9</xmin><ymin>9</ymin><xmax>9</xmax>" in text  # the object of zero width
    assert locate_voc(str(folder), False).is_sample
