"""Label groups: by the last word of a name, by WordNet's nearest shared ancestor; what is written
can be used.
"""

import json
from pathlib import Path

import pytest

from calm import eval_pixel_perturb, superclass
from calm.data_superclass import group_by_ancestor, group_by_last_word, read_names
from common.cli import UserError
from tests.calm.conftest import flags, newest


def test_last_word() -> None:
    names = {
        0: "001.Black_footed_Albatross",
        1: "002.Laysan_Albatross",
        2: "004.Groove_billed_Ani",
        3: "005.Albatross",
    }
    assert group_by_last_word(names) == {0: [0, 1, 3], 1: [0, 1, 3], 2: [2], 3: [0, 1, 3]}


def test_nearest_shared_ancestor() -> None:
    """dog and wolf share canine; cat joins them only as a carnivore; the rock shares nothing."""
    is_a = [
        ("canine", "dog"),
        ("canine", "wolf"),
        ("pet", "dog"),
        ("feline", "cat"),
        ("carnivore", "canine"),
        ("carnivore", "feline"),
        ("carnivore", "carnivore"),
        ("pet", "cat"),
    ]
    groups = group_by_ancestor({0: "dog", 1: "wolf", 2: "cat", 3: "rock"}, is_a)
    assert groups == {
        0: [0, 1],
        1: [0, 1],
        2: [0, 2],
        3: [3],
    }  # of dog's parents the first of equals


def test_names_and_command(birds: Path, save_root: Path, tmp_path: Path, capsys) -> None:
    classes, lists = birds / "CUB_200_2011/classes.txt", tmp_path / "class_labels.txt"
    names = read_names(classes)
    lists.write_text("\n".join(f"{name}/x,y.jpg,{label}" for label, name in names.items()))
    assert read_names(lists) == names and len(names) == 6
    out = tmp_path / "groups.json"
    superclass.main([str(classes), str(out)])
    assert "6 labels in 1 groups" in capsys.readouterr().out  # all are Digitbirds
    assert json.loads(out.read_text())["5"] == list(range(6))
    eval_pixel_perturb.main(
        flags(
            birds,
            save_root,
            "--score_map_process",
            "jointll-superclass",
            "--erase_k",
            "0.1",
            "--superclass_file",
            str(out),
        )
    )
    assert (newest(save_root, "eval_pixel_perturb_jointll-superclass") / "summary.json").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 a\n3 c", "gaps"),
        ("nonsense", ":1: 'nonsense'"),
        ("", "gaps"),
        ("a,b", ":1:"),
        ("1 a\n1 b", ":2: label 0 is 'a' already, not 'b'"),
        ("a/x.jpg,0\nb/y.jpg,0", "label 0 is 'a' already"),
    ],
)
def test_bad_names(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        superclass.main([str(tmp_path / "classes.txt"), str(tmp_path / "out.json")])


def test_bad_is_a(birds: Path, tmp_path: Path) -> None:
    classes = str(birds / "CUB_200_2011/classes.txt")
    (tmp_path / "is_a.txt").write_text("a b\na b c\n")
    with pytest.raises(UserError, match=":2: expected"):
        superclass.main([classes, str(tmp_path / "o"), "--is_a", str(tmp_path / "is_a.txt")])
    with pytest.raises(UserError, match="no such file"):
        superclass.main([classes, str(tmp_path / "o"), "--is_a", str(tmp_path / "none")])
    with pytest.raises(UserError, match="none: no such file; give classes.txt"):
        superclass.main([str(tmp_path / "none"), str(tmp_path / "o")])
