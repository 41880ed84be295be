"""The project file promises what the house is built on."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PLUGINS = PROJECT["entry-points"]["cryomamba"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() for requirement in requirements}


def test_the_installed_version_is_that_of_the_project_file():
    assert metadata.version("cryomamba") == PROJECT["version"]


def test_the_base_installation_has_no_model_library_no_desktop_and_no_server():
    heavy = {"alembic", "hypercorn", "napari", "pyqt5", "pyqt6", "qtpy", "quart", "sqlalchemy", "torch"}
    assert names(PROJECT["dependencies"]).isdisjoint(heavy)


def test_the_extras_are_those_that_the_documentation_names():
    assert set(EXTRAS) == {"all", "gui", "gui-qt6", "napari", "nnunet", "server"}
    text = (ROOT / "docs" / "getting-started.md").read_text()
    assert [extra for extra in EXTRAS if f"`{extra}`" not in text] == []


def test_the_two_desktop_extras_bring_one_qt_binding_each():
    assert {"pyqt5"} == names(EXTRAS["gui"]) & {"pyqt5", "pyqt6"}
    assert {"pyqt6"} == names(EXTRAS["gui-qt6"]) & {"pyqt5", "pyqt6"}


@pytest.mark.parametrize("module", PLUGINS.values())
def test_every_built_in_plugin_can_be_imported_and_states_its_version(module):
    assert importlib.import_module(module).cryomamba_api_version == 1


def test_the_versions_of_the_constraints_are_allowed_by_the_project_file():
    constraints = (ROOT / "constraints.txt").read_text()
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    for requirement in groups["judge"]:
        assert requirement in constraints


#: Import name → distribution, where they differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "dynamic_network_architectures": "dynamic-network-architectures",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "jwt": "pyjwt",
    "nrrd": "pynrrd",
    "prometheus_client": "prometheus-client",
    "pynvml": "nvidia-ml-py",
    "quart_trio": "quart-trio",
    "rich_click": "rich-click",
    "trio_websocket": "trio-websocket",
    "typed_settings": "typed-settings",
    "uuid_utils": "uuid-utils",
}
#: For plugin authors, who have it already; and what pip and click bring with them.
UNDECLARED = {"pytest", "click"}


def test_everything_that_is_imported_is_declared():
    declared = names([*PROJECT["dependencies"], *EXTRAS["server"], *EXTRAS["nnunet"], *EXTRAS["napari"]])
    own = {"cryomamba_backends", "cryomamba_core", "cryomamba_gui", "cryomamba_server"}
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            foreign = {name.split(".")[0] for name in found} - own - UNDECLARED - sys.stdlib_module_names
            assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= declared, file.relative_to(ROOT)
