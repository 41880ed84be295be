"""The documentation says what the code says."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path
from types import ModuleType

import attrs
import click
import pytest

import cryomamba_core
from cryomamba_core import errors, hookspecs
from cryomamba_core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

#: Parts of the core that plugins have no business with.
INTERNAL = ("cryomamba_core.__main__", "cryomamba_core.cli", "cryomamba_core.measuring", "cryomamba_core.worker")

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("cryomamba_"))


def error_classes() -> list[type[errors.CryoMambaError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, errors.CryoMambaError) and isinstance(kind.code, str)]


def leaves() -> list[type[errors.CryoMambaError]]:
    return [kind for kind in error_classes() if not kind.__subclasses__()]


@pytest.fixture(scope="session")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rows_from_code", DOCS / "_ext" / "rows_from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tested() -> str:
    """The text of all tests, conformance suites included, apart from these."""
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "src" / "cryomamba_core" / "testing").rglob("*.py")]
    return "\n".join(file.read_text() for file in files if file.parent != Path(__file__).parent)


def flat(rows: object) -> str:
    return "\n".join(" | ".join(row) for row in rows)  # type: ignore[attr-defined]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_explained_to_plugin_authors(hook):
    guide = "\n".join(page.read_text() for page in sorted((DOCS / "plugins").rglob("*.md")))
    assert f"`{hook}`" in guide


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_tested(hook, tested):
    assert hook in tested


def test_every_hook_stands_in_the_reference(tables):
    table = flat(tables.hooks())
    assert [hook for hook in HOOKS if hook not in table] == []


@pytest.mark.parametrize("error", leaves(), ids=lambda error: error.code)
def test_every_error_is_raised_in_a_test(error, tested):
    assert re.search(rf"\b{error.__name__}\b", tested) or error.code in tested


def test_every_error_stands_in_the_reference_with_a_meaning(tables):
    rows = {row[0].strip("`"): row for row in tables.error_codes()}
    for error in error_classes():
        if error is not errors.CryoMambaError:
            assert rows[error.code][1].endswith("."), error.code


def test_error_codes_are_unique():
    codes = [error.code for error in error_classes() if error is not errors.JobFailed]
    assert len(codes) == len(set(codes))


def test_the_drawing_of_the_error_tree_shows_every_error():
    drawing = errors.__doc__ or ""
    for error in leaves():
        assert error.__name__ in drawing
        assert error.code in drawing


def test_every_setting_stands_in_the_reference_with_a_meaning(tables):
    rows = {row[1].strip("`"): row for row in tables.settings()}
    for setting in attrs.fields(Settings):
        assert rows[setting.name][0] == f"``CRYOMAMBA_{setting.name.upper()}``"
        assert rows[setting.name][3]


def test_the_pages_use_the_tables():
    pages = "\n".join(page.read_text() for page in PAGES)
    for name in ("error-codes", "exit-codes", "worker-exit-codes", "settings", "hooks", "job-states"):
        assert f"```{{{name}}}" in pages


def test_every_public_module_of_the_core_is_in_the_reference():
    found = [module.name for module in pkgutil.walk_packages(cryomamba_core.__path__, "cryomamba_core.")]
    public = [name for name in found if not name.startswith(INTERNAL)]
    pages = "\n".join(page.read_text() for page in PAGES)
    listed = set(re.findall(r"automodule:: (\S+)", pages))
    packages = {"cryomamba_core.interfaces"}
    assert sorted(set(public) - listed - packages) == []
    assert sorted(listed - set(found)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def commands_in(page: Path) -> list[list[str]]:
    text = page.read_text()
    shown = re.findall(r"^\$ ((?:\.venv/bin/)?cryomamba .*)$", text, re.MULTILINE)
    named = re.findall(r"`((?:\.venv/bin/)?cryomamba [a-z][^`]*)`", text)
    return [shlex.split(line, comments=True)[1:] for line in [*shown, *named]]


PAGES_WITH_COMMANDS = [page for page in PAGES if commands_in(page)]


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_that_are_shown_exist(page):
    from cryomamba_core.cli.main import cli

    for words in commands_in(page):
        command: click.Command = cli
        for word in words:
            if word.startswith("-"):
                known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
                assert word.split("=")[0] in known, f"{' '.join(words)}: {word}"
            elif isinstance(command, click.Group):
                inner = command.get_command(click.Context(command), word)
                assert inner is not None, f"{' '.join(words)}: {word}"
                command = inner
