"""What is imported when nothing is asked for yet."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest

#: Never imported before somebody needs them.
NEVER = ("PyQt5", "PyQt6", "httpx", "napari", "nnunetv2", "qtpy", "quart", "torch")
#: Nor these, by modules that every start of the command imports.
NOT_AT_START = (*NEVER, "matplotlib", "mrcfile", "nibabel", "nrrd", "safetensors", "scipy", "sqlalchemy")

PLUGINS = [entry.value for entry in metadata.entry_points(group="cryomamba") if entry.dist.name == "cryomamba"]


def loaded_by(statement: str) -> set[str]:
    """Top packages that a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_importing_the_core_loads_no_model_library_no_desktop_and_no_network():
    assert loaded_by("import cryomamba_core, cryomamba_core.plugins, cryomamba_core.interfaces").isdisjoint(NEVER)


def test_importing_the_core_alone_loads_next_to_nothing():
    assert loaded_by("import cryomamba_core").isdisjoint({*NOT_AT_START, "numpy", "attrs", "click", "trio"})


def test_importing_the_command_loads_nothing_heavy():
    assert loaded_by("import cryomamba_core.cli.main").isdisjoint(NOT_AT_START)


@pytest.mark.parametrize("module", PLUGINS)
def test_importing_a_built_in_plugin_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}").isdisjoint(NOT_AT_START)


def test_finding_all_built_in_plugins_loads_nothing_heavy(tmp_path):
    statement = (
        "from pathlib import Path\n"
        "from cryomamba_core.plugins import PluginHost\n"
        "from cryomamba_core.settings import Settings\n"
        f"host = PluginHost.discover(Settings(data_dir=Path({str(tmp_path)!r})), only='cryomamba')\n"
        "assert not host.problems, host.problems"
    )
    assert loaded_by(statement).isdisjoint(NOT_AT_START)
