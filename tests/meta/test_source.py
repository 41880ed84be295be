"""Habits that the whole source keeps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
FILES = sorted(SRC.rglob("*.py"))
MOST_LINES = 500

#: Imported inside functions only: each costs a noticeable part of a second, or may not be installed.
HEAVY = frozenset({"mrcfile", "napari", "nibabel", "nnunetv2", "nrrd", "torch"})


def by_name(path: Path) -> str:
    return str(path.relative_to(SRC))


def imports_at_module_level(tree: ast.Module) -> Iterator[str]:
    """Names of top packages that importing the module imports; not those for type checkers only."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ast.Import):
            yield from (alias.name.split(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield (statement.module or "").split(".")[0]
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            waiting += statement.orelse
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_a_file_is_shorter_than_500_lines(file):
    assert len(file.read_text().splitlines()) < MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_a_module_says_what_it_is_for(file):
    assert ast.get_docstring(ast.parse(file.read_text()))


#: What is loaded only once there is a window, which is one of napari's.
OF_A_WINDOW = [SRC / "cryomamba_gui" / "canvas", SRC / "cryomamba_gui" / "qt"]


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_no_heavy_module_is_imported_at_module_level(file):
    heavy = HEAVY - {"napari"} if file.parent in OF_A_WINDOW else HEAVY
    assert heavy.intersection(imports_at_module_level(ast.parse(file.read_text()))) == set()


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_every_ignored_complaint_has_its_reason_beside_it(file):
    bare = re.compile(r"# (noqa|type: ignore)[^#(]*$")
    assert [line.strip() for line in file.read_text().splitlines() if bare.search(line)] == []
