"""Inside calm/, the originals' short module names are the modules of the package, not second copies of them."""

from pathlib import Path

import pytest

import calm
from tests.short_names import modules_of, program_for, run_inside

FOLDER = Path(calm.__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("short_first", [True, False])
def test_every_module_is_one_object_under_both_names(short_first):
    run_inside("calm", program_for(modules_of(FOLDER), "calm", short_first=short_first))


@pytest.mark.parametrize("before", ["", "import calm.config, calm.network.universal"])
def test_a_class_is_one_class_under_both_names(before):
    run_inside(
        "calm",
        f"""
        {before}
        from config import Configs
        from network.universal import UniversalProcess
        import calm.config, calm.network.universal
        assert Configs is calm.config.Configs
        assert UniversalProcess is calm.network.universal.UniversalProcess
        """,
    )
