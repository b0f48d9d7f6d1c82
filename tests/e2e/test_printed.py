"""Every command that the READMEs print is found, wherever it stands, and names what is there."""

import itertools
import re
from pathlib import Path

import pytest

from sidebyside.results import ROOT
from tests.e2e import printed

TEXT = r"""# Title

Prose with `python a.py --one` and one over a line end: `python b.py
--two 2`, and ``python c.py --three`` in two backticks.

    python d.py --four \
        --five 5   # a comment
    SMALL="--six 6"
    BOTH="$SMALL --seven"
    python e.py $BOTH --data_dir $your_dir &
    cd cavl && python f.py && make demo

```bash
$ python g.py --eight "a b" \
  --nine \
  --ten
accelerate launch h.py
not a command
```

~~~
torchrun --nproc_per_node 4 i.py
~~~

| paper | command |
| --- | --- |
| cavl | `python j.py --choice a\|b` |
| other | `cd csl && python k.py` and `l.py ... --eleven` |

- a list
  with `python m.py`

  and in it

      python n.py

1. one
   more, `conda activate x`
    python not_a_block.py
"""


def test_commands_are_found_in_blocks_tables_and_prose():
    found = [
        (c.line, c.folder, " ".join(c.words)) for c in printed.of_readme("mile/README.md", TEXT)
    ]
    assert found == [
        (3, "mile", "python a.py --one"),
        (3, "mile", "python b.py --two 2"),
        (4, "mile", "python c.py --three"),
        (6, "mile", "python d.py --four --five 5"),
        (10, "mile", "python e.py --six 6 --seven --data_dir $your_dir"),
        (11, "cavl", "python f.py"),
        (11, "cavl", "make demo"),
        (14, "mile", "python g.py --eight a b --nine --ten"),
        (17, "mile", "accelerate launch h.py"),
        (22, "mile", "torchrun --nproc_per_node 4 i.py"),
        (27, "cavl", "python j.py --choice a|b"),
        (28, "csl", "python k.py"),
        (28, "mile", "l.py ... --eleven"),
        (31, "mile", "python m.py"),
        (35, "mile", "python n.py"),
        (38, "mile", "conda activate x"),
    ]


def test_what_runs_is_known():
    commands = {
        "python main.py -a": ("file", "main.py"),
        "../.venv/bin/python ../benchmarks/x.py": ("file", "../benchmarks/x.py"),
        "accelerate launch --num_processes 2 main.py": ("file", "main.py"),
        "torchrun --nproc_per_node 4 main.py": ("file", "main.py"),
        "python -m common.samples NAME DIR": ("module", "common.samples"),
        "make test-slow": ("make", "test-slow"),
        "pip install -e .": ("", "pip"),
        "torchrun": ("", "torchrun"),
    }
    for text, program in commands.items():
        assert printed.Command("x", 1, ".", text).program == program


def test_flags_are_those_inside_quotes_too():
    command = printed.Command(
        "x", 1, ".", 'python a.py --list "gap,max --alpha_re 0.3" -b -1 --image-size=4 [--tag T]'
    )
    assert command.flags == {"--list", "--alpha_re", "-b", "--image_size", "--tag"}
    assert printed.told_flags("  --image-size N, -b N   what (see --other_flag)") == {
        "--image_size",
        "-b",
        "--other_flag",
    }


@pytest.mark.parametrize("readme", [*printed.READMES, *printed.PAGES])
def test_no_command_of_a_readme_is_missed(readme):
    found = printed.of_readme(readme)
    assert found
    for line, mark in printed.marks((ROOT / readme).read_text(encoding="utf-8")):
        near = [c.text for c in found if abs(c.line - line) <= 1]
        words = " ".join(mark.split())
        assert any(words in text for text in near), f"{readme}:{line}: {mark} stands in no code"


def test_a_command_outside_of_code_would_be_missed_and_is_seen():
    text = "Run python main.py --sample, or make demo; make yours as `python x.py` does.\n"
    assert [mark for _, mark in printed.marks(text)] == [
        "python main.py",
        "make demo",
        "python x.py",
    ]
    assert [c.text for c in printed.of_readme("cavl/README.md", text)] == ["python x.py"]


EVERY = [
    *itertools.chain.from_iterable(map(printed.of_readme, [*printed.READMES, *printed.PAGES])),
    *printed.of_docstrings(),
    *printed.of_claims(),
    *printed.of_full_scale(),
]


def test_scripts_modules_and_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    missing = []
    for command in EVERY:
        kind, name = command.program
        if kind == "file" and name != "X.py" and not (ROOT / command.folder / name).is_file():
            missing.append(str(command))
        if kind == "module" and name != "venv":
            place = ROOT / name.replace(".", "/")
            if not (place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()):
                missing.append(str(command))
        if kind == "make":
            variables = [word.partition("=")[0] for word in command.words[2:] if "=" in word]
            is_there = re.search(rf"^{re.escape(name)}:", makefile, re.M)
            if not is_there or not all(f"$({variable})" in makefile for variable in variables):
                missing.append(str(command))
    assert missing == []


def is_script(path: Path) -> bool:
    """Whether a file runs as a program; calm's evaluation scripts do so through one class."""
    last = path.read_text().rstrip().rpartition("\n")[2]
    return last.startswith(("    run_main(", "script.run("))


def test_each_training_and_evaluation_script_is_printed_somewhere():
    names = {(c.folder, Path(c.program[1]).name) for c in EVERY if c.program[0] == "file"}
    for folder in ("cavl", "oass", "calm", "csl", "mile"):
        scripts = [path.name for path in (ROOT / folder).glob("*.py") if is_script(path)]
        assert scripts and {(folder, name) for name in scripts} <= names


@pytest.mark.parametrize("readme", printed.READMES)
def test_python_files_that_a_readme_names_are_there(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    home = (ROOT / readme).parent
    missing = []
    for name in printed.scripts(text) - {"X.py"}:
        is_there = (
            (home / name).is_file() or (ROOT / name).is_file() or any(home.rglob(Path(name).name))
        )
        if not is_there:
            missing.append(name)
    assert missing == []


def test_the_commands_of_the_originals_are_among_those_that_run():
    """tests/e2e/test_commands.py runs them; every README holds its paper's main one."""
    mains = {
        "cavl": "python main.py",
        "csl": "python train.py --partial_loss_mode=selective",
        "mile": "python MILe.py",
        "oass": "python train_classification_with_puzzle_cTopk_w_ema.py",
    }
    for paper, text in mains.items():
        assert text in [" ".join(c.words) for c in printed.of_readme(f"{paper}/README.md")]
