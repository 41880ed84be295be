"""The documentation says what the code says."""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import re
import shlex
import shutil
import socket
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path
from types import ModuleType
from typing import get_args

import attrs
import click
import pytest
from wsproto.frame_protocol import CloseReason

import cryomamba_core
from cryomamba_core import errors, events, hookspecs
from cryomamba_core.cli.main import cli
from cryomamba_core.protocol import live
from cryomamba_core.settings import Settings, load_settings
from cryomamba_server.engine import database, scheduler
from cryomamba_server.http import announcing, audience, running, tls
from cryomamba_server.http.access import keys
from cryomamba_server.http.app import all_routes
from cryomamba_server.http.command import serve
from cryomamba_server.http.errors import STATUSES, status_of
from cryomamba_server.http.metrics import Metrics
from cryomamba_server.http.openapi import path_template
from cryomamba_server.http.routing import Scope
from cryomamba_server.http.settings import ServeSettings, load_serve_settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DEPLOY = ROOT / "deploy"
REFERENCE = DOCS / "reference"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

#: Parts of the core that plugins have no business with.
INTERNAL = (
    "cryomamba_core.__main__",
    "cryomamba_core.cli",
    "cryomamba_core.errors.",  # what is in them is documented as it is imported
    "cryomamba_core.measuring",
    "cryomamba_core.worker",
)

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


def test_every_setting_of_a_server_stands_in_the_reference_with_a_meaning(tables):
    rows = {row[0].partition(", ")[0].strip("`"): row for row in tables.serve_settings()}
    options = {parameter.name: parameter.opts[0] for parameter in serve.params}
    for setting in attrs.fields(ServeSettings):
        names, default, meaning = rows[setting.name]
        expected = [setting.name, f"CRYOMAMBA_SERVE_{setting.name.upper()}", options.pop(setting.name, None)]
        assert names == ", ".join(f"``{name}``" for name in expected if name)
        assert default
        assert meaning.endswith(".")
    assert options == {"data_dir": "--data-dir"}


def test_every_variable_of_clients_stands_in_the_reference():
    page = (REFERENCE / "settings.md").read_text()
    variables = {str(option.envvar) for option in cli.params if isinstance(option, click.Option) and option.envvar}
    assert variables >= {"CRYOMAMBA_SERVER", "CRYOMAMBA_FINGERPRINT"}
    assert [name for name in sorted({*variables, "CRYOMAMBA_TOKEN"}) if f"| `{name}` |" not in page] == []


def test_every_file_of_a_data_directory_stands_in_the_reference():
    page = (REFERENCE / "settings.md").read_text()
    names = [database.FILE_NAME, scheduler.LOCK_NAME, running.LOCK_NAME, announcing.NOTE_NAME, announcing.TOKEN_NAME]
    names += [f"{keys.FOLDER}/{keys.FILE_NAME}", f"{tls.FOLDER}/certificate.pem", f"{tls.FOLDER}/private-key.pem"]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_what_a_server_leaves_in_its_data_directory_stands_in_the_reference(tmp_path):
    page = (REFERENCE / "settings.md").read_text()
    tls.open_identity(tmp_path, ServeSettings(self_signed=True))
    keys.KeyRing(tmp_path)
    database.Database(tmp_path).close()
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) >= 5
    assert [name for name in left if f"`{name}`" not in page] == []


def test_every_route_stands_in_the_reference_with_who_may_use_it_and_what_it_does(tables):
    rows = {row[0].strip("`"): row for row in tables.routes()}
    for route in all_routes():
        method = "GET" if route.method == "WEBSOCKET" else route.method
        _, needs, meaning = rows.pop(f"{method} {path_template(route.rule)}")
        assert needs == f"``{route.access}``" if isinstance(route.access, Scope) else needs
        assert flat_text(meaning).startswith(f"{flat_text(route.summary).rstrip('.')} ({route.status}).")
        assert all(f"{status}: {flat_text(said)}" in flat_text(meaning) for status, said in route.also.items())
    assert list(rows) == ["Request"]


def flat_text(text: str) -> str:
    return text.replace("`", "")


def test_every_scope_is_explained_where_tokens_are_made_and_where_they_are_needed(tables):
    explained = {row[0].strip("`"): row[1] for row in tables.scopes()}
    assert [scope for scope in Scope if not explained.get(scope)] == []
    for page in (REFERENCE / "http.md", DOCS / "howto" / "serve.md"):
        assert "```{scopes}" in page.read_text()


def test_every_header_of_a_request_stands_in_the_reference(tables):
    listed = {(row[0].strip("`"), row[1].strip("`")) for row in tables.request_headers()}
    wanted = {(header, path_template(route.rule)) for route in all_routes() for header in route.headers}
    assert wanted <= listed


@pytest.mark.parametrize("error", leaves(), ids=lambda error: error.code)
def test_every_error_stands_under_its_status(error, tables):
    rows = {row[0]: row[2] for row in tables.statuses()}
    nearest = next(kind for kind in error.__mro__ if kind in STATUSES)
    if nearest is not errors.CryoMambaError:
        listed = rows[str(status_of(error))]
        assert f"``{nearest.code}``" in listed or f"others of ``{nearest.code.partition('/')[0]}/…``" in listed


def test_every_status_of_an_error_stands_in_the_reference(tables):
    assert {str(status) for status in STATUSES.values()} == {row[0] for row in tables.statuses()} - {"Status"}


def test_the_envelope_that_is_shown_has_the_fields_of_an_error():
    shown = json.loads(examples_in(REFERENCE / "http.md")[0])
    assert list(shown) == ["error"]
    assert list(shown["error"]) == [field.name for field in attrs.fields(errors.ErrorInfo)]


def test_every_message_stands_in_the_reference(tables):
    rows = {row[0].strip("`"): row for row in tables.live_messages()}
    for kind in get_args(events.JobEvent):
        assert rows[kind.type][1]
        assert rows[kind.type][3].endswith(".")


def test_the_messages_that_are_shown_have_the_fields_of_the_table(tables):
    fields = {row[0].strip("`"): set(re.findall("``(.+?)``", row[1])) for row in tables.live_messages()}
    shown = [json.loads(line) for line in examples_in(REFERENCE / "live.md")]
    assert {message["type"] for message in shown} == set(fields) - {"type", "error"}
    for message in shown:
        assert set(message) == {"seq", "type", "at"} | fields[message["type"]]


def test_both_sub_protocols_stand_in_the_reference():
    page = (REFERENCE / "live.md").read_text()
    assert f"| `{live.JSON_PROTOCOL}` |" in page
    assert f"| `{live.BINARY_PROTOCOL}` |" in page


def test_every_close_code_stands_in_the_reference(tables):
    listed = {row[0] for row in tables.close_codes()} - {"Code"}
    known = {str(reason.value) for reason in CloseReason}
    used = {str(value) for value in vars(audience).values() if isinstance(value, int) and str(value) in known}
    described = next(route for route in all_routes() if route.method == "WEBSOCKET").description
    assert listed == used
    assert listed == set(re.findall(r"\b1\d{3}\b", described))


def test_every_metric_stands_in_the_guide(tables):
    rows = {row[0].strip("`"): row[3] for row in tables.metrics()}
    families = [family for family in Metrics().registry.collect() if family.name.startswith("cryomamba_")]
    assert len(families) > 10
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert rows[name].endswith(".")


def test_the_pages_use_the_tables(tables):
    pages = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in tables.TABLES if f"```{{{name}}}" not in pages] == []


def examples_in(page: Path) -> list[str]:
    """The lines of all blocks of JSON on a page."""
    blocks = re.findall(r"^```json\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_the_settings_file_that_is_shown_can_be_used(monkeypatch):
    for name in [name for name in os.environ if name.startswith("CRYOMAMBA_")]:
        monkeypatch.delenv(name)
    file = DEPLOY / "cryomamba.toml"
    plain = tomllib.loads(file.read_text())
    assert set(plain) == {"cryomamba", "serve"}
    for kind, given, loaded in (
        (Settings, plain["cryomamba"], load_settings(file)),
        (ServeSettings, plain["serve"], load_serve_settings(file)),
    ):
        assert set(given) <= {setting.name for setting in attrs.fields(kind)}
        for name, value in given.items():
            taken = getattr(loaded, name)
            assert (list(map(str, taken)) if isinstance(taken, tuple) else taken) in (value, Path(str(value)))


def directives_of_the_unit() -> dict[str, str]:
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # it lowers names else
    unit.read(DEPLOY / "cryomamba.service")
    return dict(unit["Service"])


def test_the_unit_that_is_shown_gives_the_server_its_time_and_its_workers_their_lives():
    unit = directives_of_the_unit()
    plain = tomllib.loads((DEPLOY / "cryomamba.toml").read_text())
    patience = plain["serve"].get("graceful_seconds", ServeSettings().graceful_seconds) + running.LAST_SECONDS
    assert float(unit["TimeoutStopSec"]) > patience
    assert unit["KillMode"] == "process"
    assert unit["OOMPolicy"] == "continue"
    assert unit["Restart"] == "always"
    assert Path(plain["cryomamba"]["data_dir"]) == Path("/var/lib") / unit["StateDirectory"]


def test_the_unit_that_is_shown_runs_a_command_that_exists():
    program, *words = shlex.split(directives_of_the_unit()["ExecStart"])
    assert Path(program).name == "cryomamba"
    require_known(words)


def test_the_proxy_that_is_shown_leads_to_the_server_that_is_shown():
    page, serving = (DEPLOY / "nginx.conf").read_text(), load_serve_settings(DEPLOY / "cryomamba.toml")
    assert f"proxy_pass http://{serving.host}:{serving.port};" in page
    assert f"server_name {serving.public_url.removeprefix('https://')};" in page
    largest = re.search(r"client_max_body_size (\d+)m;", page)
    assert largest is not None
    assert int(largest[1]) << 20 > max(serving.part_size, ServeSettings().part_size)


NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_the_proxy_that_is_shown_is_one_that_nginx_takes(tmp_path):
    tls.open_identity(tmp_path, ServeSettings(self_signed=True))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site = (DEPLOY / "nginx.conf").read_text()
    for shown, here in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("listen [::]:443 ssl;", ""),
        ("/etc/ssl/certs/tomo.example.org.pem", str(tmp_path / "tls" / "certificate.pem")),
        ("/etc/ssl/private/tomo.example.org.key", str(tmp_path / "tls" / "private-key.pem")),
        ("/var/log/nginx/cryomamba.log", str(tmp_path / "access.log")),
    ):
        assert site.count(shown) == 1
        site = site.replace(shown, here)
    folders = "".join(f"{name}_temp_path {tmp_path}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ client_body_temp_path {tmp_path}/bodies; {folders}\n{site}\n}}\n"
    )
    command = [
        str(NGINX),
        "-t",
        "-p",
        str(tmp_path),
        "-c",
        str(tmp_path / "nginx.conf"),
        "-e",
        str(tmp_path / "error.log"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
    for words in commands_in(page):
        require_known(words)


def test_a_command_or_an_option_that_does_not_exist_would_be_found():
    for line in (
        "serv",
        "serve --hots 0.0.0.0",
        "--server local: job list",
        "jobs lst",
        "token create --subject a --hats b",
    ):
        with pytest.raises(AssertionError):
            require_known(line.split())


def require_known(words: list[str]) -> None:
    """Hold the words of a command against the command line."""
    command: click.Command = cli
    values = 0
    for word in words:
        if values:
            values -= 1
        elif word.startswith("-"):
            name, given, _ = word.partition("=")
            option = next((parameter for parameter in command.params if name in parameter.opts), None)
            assert option is not None or name == "--help", f"{' '.join(words)}: {word}"
            values = option.nargs if isinstance(option, click.Option) and not option.is_flag and not given else 0
        elif isinstance(command, click.Group):
            inner = command.get_command(click.Context(command), word)
            assert inner is not None, f"{' '.join(words)}: {word}"
            command = inner
