"""The plugin host: strangers' distributions are found on the path, and what is wrong with one hurts no other."""

import importlib
import logging
import sys
import textwrap
from datetime import UTC, datetime

import click
import pytest

from cryomamba_core.errors import InvalidParameter, MissingFile, UnknownFormat, UnknownPlugin
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter, ModelRunner, Transport, VolumeReader
from cryomamba_core.jobs import JobConfig, JobRecord, JobState, Source
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings

RECORD = JobRecord(
    id="0198",
    owner="me",
    state=JobState.COMPLETED,
    config=JobConfig(source=Source(path="/a.mrc")),
    created_at=datetime(2025, 1, 1, tzinfo=UTC),
)

RUNNER = """
from attrs import frozen
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import ModelRunner

@frozen
class Params:
    pass

class Runner(ModelRunner):
    name = "{name}"
    params_type = Params

    def models(self):
        return ()

    def plan(self, model, grid, params, device):
        raise AssertionError("nothing was to be planned")

    def segment(self, volume, params, context):
        yield from ()

@hookimpl
def cryomamba_register_runners(register):
    register(Runner())
"""

EXPORTER = """
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter

class Special(Exporter):
    name = "{name}"
    artifact = "{artifact}"
    suffix = ".x"
    media_type = "application/x-x"

    def write(self, labels, grid, info, path):
        return ()

@hookimpl
def cryomamba_register_exporters(register):
    register(Special())
"""


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def host(settings):
    return PluginHost(settings)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with one plugin on the path, as pip would."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    modules = []

    def put(distribution, source, *, entry_points=None, metadata=None, name=None):
        module = f"{distribution.replace('-', '_')}_of_a_stranger"
        modules.append(module)
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        folder = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
        folder.mkdir()
        (folder / "entry_points.txt").write_text(entry_points or f"[cryomamba]\n{name or distribution} = {module}\n")
        if metadata is None:
            metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        if metadata:
            (folder / "METADATA").write_text(metadata)
        importlib.invalidate_caches()

    yield put
    for module in modules:
        sys.modules.pop(module, None)


def problem_of(host, distribution):
    (sentence,) = [problem for problem in host.problems if f" of {distribution} " in problem]
    (record,) = [record for record in host.plugins if record.distribution == distribution]
    assert record.error
    assert record.provides == {}
    assert record.error in sentence
    return sentence


def test_an_empty_host_has_nothing_and_says_so(host):
    assert host.plugins == ()
    assert len(host.runners) == 0
    assert host.problems == ()
    with pytest.raises(UnknownPlugin) as caught:
        host.runners.get("nnunet")
    assert "none" in caught.value.hint


def test_a_stranger_s_distribution_is_found(install, settings):
    install("good", RUNNER.format(name="good"))
    host = PluginHost.discover(settings)
    (record,) = [record for record in host.plugins if record.distribution == "good"]
    assert (record.name, record.version, record.error) == ("good", "1.2", "")
    assert record.provides == {"runner": ("good",)}
    assert host.runners.get("good").name == "good"
    assert not [problem for problem in host.problems if "good" in problem]


def test_ours_are_registered_first_so_that_nobody_takes_their_names(install, settings):
    install("aaa", RUNNER.format(name="threshold"))
    host = PluginHost.discover(settings)
    assert "'threshold' is already registered" in problem_of(host, "aaa")
    assert type(host.runners.get("threshold")).__module__ == "cryomamba_backends.threshold"
    ours = [record.distribution == "cryomamba" for record in host.plugins]
    assert ours == sorted(ours, reverse=True)


BROKEN = {
    "unimportable": ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named"),
    "syntax": ("def f(:\n", "SyntaxError"),
    "exits": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "base-exception": ("raise type('Odd', (BaseException,), {})('at import')\n", "Odd: at import"),
    "misspelt": (
        "from cryomamba_core.hookspecs import hookimpl\n@hookimpl\ndef cryomamba_register_runers(register): pass\n",
        "there is no hook called cryomamba_register_runers",
    ),
    "misspelt-and-undecorated": (
        "def cryomamba_register_runers(register): pass\n",
        "there is no hook called cryomamba_register_runers",
    ),
    "undecorated": (
        "def cryomamba_register_runners(register): pass\n",
        "cryomamba_register_runners lacks the hookimpl decorator",
    ),
    "undecorated-observer": (
        "def cryomamba_job_changed(record): pass\n",
        "cryomamba_job_changed lacks the hookimpl decorator",
    ),
    "unknown-argument": (
        "from cryomamba_core.hookspecs import hookimpl\n"
        "@hookimpl\ndef cryomamba_register_runners(register, color): pass\n",
        "color",
    ),
    "from-the-future": ("cryomamba_api_version = 99\n", "it was written for API version 99, this is 1"),
    "hook-raises": (
        "from cryomamba_core.hookspecs import hookimpl\n"
        "@hookimpl\ndef cryomamba_register_runners(register):\n    raise OSError('no licence found')\n",
        "OSError: no licence found",
    ),
    "hook-exits": (
        "from cryomamba_core.hookspecs import hookimpl\n"
        "@hookimpl\ndef cryomamba_register_runners(register):\n    raise SystemExit('no licence found')\n",
        "SystemExit: no licence found",
    ),
    "half-done": (
        RUNNER.format(name="half") + "    register(Runner())\n",
        "a runner called 'half' is already registered",
    ),
    "abstract": (
        RUNNER.format(name="abstract").replace("def segment", "def other"),
        "TypeError: Can't instantiate abstract class Runner",
    ),
    "wrong-kind": (
        "from cryomamba_core.hookspecs import hookimpl\n"
        "@hookimpl\ndef cryomamba_register_runners(register):\n    register('threshold')\n",
        "cryomamba_register_runners got a str, which is no ModelRunner",
    ),
    "nameless": (RUNNER.format(name=""), "cryomamba_register_runners got a Runner without a name"),
    "formless": (RUNNER.format(name="x").replace("params_type =", "x ="), "Runner whose params_type is no attrs class"),
    "endless": (EXPORTER.format(name="x", artifact="x").replace("suffix =", "suffix:"), "whose suffix is no text"),
    "taken-artifact": (EXPORTER.format(name="special", artifact="mask.mrc"), "'mask.mrc' is already made"),
    "hidden-artifact": (EXPORTER.format(name="special", artifact="../mask.mrc"), "no plain file name"),
    "manifest": (EXPORTER.format(name="special", artifact="manifest.json"), "'manifest.json' is already made"),
}


def test_every_broken_plugin_is_named_with_its_reason_and_the_rest_works(install, settings, caplog):
    install("good", RUNNER.format(name="good"))
    install("maskmaker", EXPORTER.format(name="maskmaker", artifact="mask.mrc"), name="aa")
    for distribution, (source, _) in BROKEN.items():
        install(distribution, source)
    with caplog.at_level(logging.WARNING):
        host = PluginHost.discover(settings)
    assert "good" in host.runners
    assert "threshold" in host.runners
    assert "half" not in host.runners
    assert "special" not in host.exporters
    for distribution, (_, reason) in BROKEN.items():
        sentence = problem_of(host, distribution)
        assert sentence.startswith(f"plugin {distribution} of {distribution} 1.2: ")
        assert reason in sentence
        assert any(distribution in message and reason in message for message in caplog.messages)


def test_a_damaged_list_of_entry_points_hides_no_other(install, settings):
    install("good", RUNNER.format(name="good"))
    install("damaged", "", entry_points="[cryomamba]\nthis is no entry point\n")
    install("damaged-value", "", entry_points="[cryomamba]\nx = not a module!\n")
    install("unrelated", "", entry_points="[console_scripts]\nthis is no entry point\n")
    host = PluginHost.discover(settings)
    assert "good" in host.runners
    problem_of(host, "damaged")
    problem_of(host, "damaged-value")
    assert not [record for record in host.plugins if record.distribution == "unrelated"]


def test_a_distribution_without_metadata_is_named_by_its_folder(install, settings):
    install("headless", "import no_such_module_anywhere", metadata="")
    install("good", RUNNER.format(name="good"))
    host = PluginHost.discover(settings)
    assert "good" in host.runners
    assert "no_such_module_anywhere" in problem_of(host, "headless")


def test_two_distributions_may_name_their_entry_points_alike(install, settings):
    install("one", RUNNER.format(name="one"), name="plugin")
    install("two", RUNNER.format(name="two"), name="plugin")
    host = PluginHost.discover(settings)
    assert {"one", "two"} <= set(host.runners.names)


def test_only_one_distribution_is_imported_when_asked(install, settings, tmp_path):
    mark = tmp_path / "imported"
    install("nosy", f"open({str(mark)!r}, 'w').close()")
    host = PluginHost.discover(settings, only="cryomamba")
    assert not mark.exists()
    assert {record.distribution for record in host.plugins} == {"cryomamba"}


def test_a_distribution_that_is_on_the_path_twice_is_loaded_once(install, settings, tmp_path, monkeypatch):
    install("good", RUNNER.format(name="good"))
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "site-packages" / "good-1.2.dist-info").rename(again / "good-1.2.dist-info")
    other = tmp_path / "site-packages" / "good-1.2.dist-info"
    other.mkdir()
    for file in (again / "good-1.2.dist-info").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(again)
    host = PluginHost.discover(settings)
    assert len([record for record in host.plugins if record.distribution == "good"]) == 1
    assert host.runners.get("good")


class Observer:
    def __init__(self, error=None):
        self.error = error
        self.heard = []

    @hookimpl
    def cryomamba_job_changed(self, record):
        self.heard.append(record)
        if self.error is not None:
            raise self.error


def test_observers_that_raise_are_logged_and_go_no_further(host, caplog):
    observers = [Observer(), Observer(RuntimeError("slack is down")), Observer(SystemExit(1)), Observer()]
    for number, observer in enumerate(observers):
        assert not host.register(observer, name=f"observer-{number}").error
    host.job_changed(RECORD)
    assert [observer.heard for observer in observers] == [[RECORD]] * 4
    assert len(caplog.records) == 2
    assert all(RECORD.id in record.getMessage() for record in caplog.records)
    assert any("observer-1" in record.getMessage() for record in caplog.records)
    assert "slack is down" in caplog.text


def test_observers_may_take_no_argument(host):
    heard = []

    class Deaf:
        @hookimpl
        def cryomamba_job_changed(self):
            heard.append(True)

    host.register(Deaf(), name="deaf")
    host.job_changed(RECORD)
    assert heard == [True]


def test_an_observer_in_a_plugin_that_is_left_out_hears_nothing(host):
    class Refused(Observer):
        @hookimpl
        def cryomamba_register_runners(self, register, color):
            """Takes an argument that no such hook has, which pluggy sees late."""

    class Raising(Observer):
        @hookimpl
        def cryomamba_register_runners(self, register):
            raise RuntimeError

    for plugin in (Refused(), Raising()):
        assert host.register(plugin, name=type(plugin).__name__).error
        host.job_changed(RECORD)
        assert plugin.heard == []


def test_one_name_is_registered_once_and_the_first_stays(host):
    first, second = Observer(), Observer()
    assert not host.register(first, name="slack").error
    assert "slack" in host.register(second, name="slack").error
    host.job_changed(RECORD)
    assert (len(first.heard), len(second.heard)) == (1, 0)


def test_hooks_are_given_what_they_ask_for_by_name(host, settings):
    given = {}

    class Curious:
        @hookimpl
        def cryomamba_register_transports(self, host, settings):
            given.update(host=host, settings=settings)

    assert not host.register(Curious(), name="curious").error
    assert given == {"host": host, "settings": settings}


class Reader(VolumeReader):
    name = "xyz"
    suffixes = (".xyz",)

    def can_read(self, path, first_bytes):
        return first_bytes.startswith(b"XYZ")

    def validate(self, first_bytes, size):
        pass

    def open(self, path, *, voxel_size=None):
        raise AssertionError


class Mask(Exporter):
    artifact, suffix, media_type = "mask.x", ".x", "application/x-x"

    def __init__(self, name):
        self.name = name

    def write(self, labels, grid, info, path):
        return ()


class Wire(Transport):
    def __init__(self, name, schemes):
        self.name, self.schemes = name, schemes

    def open(self, url, credentials):
        raise AssertionError


def offering(hook, *entries):
    def register_all(register):
        for entry in entries:
            register(entry)

    register_all.__name__ = hook
    return type("Plugin", (), {hook: staticmethod(hookimpl(register_all))})()


def test_readers_are_chosen_by_content(host, tmp_path):
    host.register(offering("cryomamba_register_readers", Reader()), name="xyz")
    good, bad = tmp_path / "a.dat", tmp_path / "b.xyz"
    good.write_bytes(b"XYZ...")
    bad.write_bytes(b"...")
    assert host.reader_for(good).name == "xyz"
    with pytest.raises(UnknownFormat) as caught:
        host.reader_for(bad)
    assert ".xyz" in caught.value.hint
    with pytest.raises(MissingFile):
        host.reader_for(tmp_path / "none")


@pytest.mark.parametrize("error", [ValueError("the header is odd"), SystemExit("the licence has ended")])
def test_a_reader_that_raises_makes_no_other_format_unreadable(host, tmp_path, caplog, error):
    class Raising(Reader):
        name = "raising"

        def can_read(self, path, first_bytes):
            raise error

    assert not host.register(offering("cryomamba_register_readers", Raising(), Reader()), name="xyz").error
    (tmp_path / "a.xyz").write_bytes(b"XYZ...")
    assert host.reader_for(tmp_path / "a.xyz").name == "xyz"
    assert f"reader raising cannot say whether it takes a.xyz: {type(error).__name__}: {error}" in caplog.messages


@pytest.mark.parametrize(
    ("kind", "attribute", "values"),
    [
        ("readers", "suffixes", [None, (), ".xyz", [".xyz"], ("xyz",), (1,)]),
        ("exporters", "suffix", [None, "", 1]),
        ("exporters", "media_type", [None, "", 1]),
        ("exporters", "channel_suffixes", [None, ".x", ("x",)]),
        ("transports", "schemes", [None, (), "a", ("a", 1)]),
    ],
)
def test_a_provider_that_is_not_as_its_interface_says_is_left_out(host, kind, attribute, values):
    for value in values:
        entry = {"readers": Reader(), "exporters": Mask("x"), "transports": Wire("a", ("a",))}[kind]
        setattr(entry, attribute, value)
        record = host.register(offering(f"cryomamba_register_{kind}", entry), name="odd")
        assert f"got a {type(entry).__name__} whose {attribute} is no " in record.error
    assert len(getattr(host, kind)) == 0


def test_exporters_are_found_by_artifact_and_by_name(host):
    host.register(offering("cryomamba_register_exporters", Mask("x")), name="x")
    assert host.exporter_for("mask.x") is host.exporter_for("x")
    with pytest.raises(UnknownPlugin) as caught:
        host.exporter_for("mask.y")
    assert "mask.x" in caught.value.hint


def test_an_exporter_of_channels_is_found_by_the_longest_ending_of_a_file_s_name(host):
    with pytest.raises(InvalidParameter, match=r"called a\.x") as caught:
        host.channel_exporter_for("a.x")
    assert "no exporter writes channels" in caught.value.hint
    for name, suffixes in (("short", (".y",)), ("long", (".x.y", ".z")), ("none", ())):
        exporter = Mask(name)
        exporter.artifact, exporter.channel_suffixes = f"mask.{name}", suffixes
        host.register(offering("cryomamba_register_exporters", exporter), name=name)
    assert host.channel_exporter_for("A.X.Y").name == "long"
    assert host.channel_exporter_for("x.y").name == "short"
    with pytest.raises(InvalidParameter) as caught:
        host.channel_exporter_for("a.mask.none")
    assert caught.value.hint == "let its name end in one of: .y, .x.y, .z"


def test_two_exporters_of_one_plugin_cannot_make_the_same_artifact(host):
    plugin = offering("cryomamba_register_exporters", Mask("x"), Mask("y"))
    assert "'mask.x' is already made" in host.register(plugin, name="x").error
    assert len(host.exporters) == 0


def test_transports_are_found_by_scheme_and_none_takes_another_s(host):
    host.register(offering("cryomamba_register_transports", Wire("a", ("a", "b"))), name="a")
    assert host.transport_for("B://somewhere").name == "a"
    error = host.register(offering("cryomamba_register_transports", Wire("c", ("c", "b"))), name="c").error
    assert "'b:'" in error
    for url in ("c://somewhere", "a", ""):
        with pytest.raises(UnknownPlugin):
            host.transport_for(url)


@pytest.mark.parametrize(
    ("hook", "interface"),
    [
        ("cryomamba_register_executors", "Executor"),
        ("cryomamba_register_exporters", "Exporter"),
        ("cryomamba_register_readers", "VolumeReader"),
        ("cryomamba_register_runners", "ModelRunner"),
        ("cryomamba_register_storages", "Storage"),
        ("cryomamba_register_transports", "Transport"),
    ],
)
def test_each_hook_takes_its_own_kind_only(host, hook, interface):
    error = host.register(offering(hook, object()), name="odd").error
    assert error == f"{hook} got a object, which is no {interface}"


def test_commands_are_registered_by_name(host):
    command = click.Command("dance")
    host.register(offering("cryomamba_register_commands", command), name="dance")
    assert host.commands.get("dance") is command


def test_every_built_in_of_this_part_is_a_plugin_like_any_other(settings):
    host = PluginHost.discover(settings, only="cryomamba")
    assert isinstance(host.runners.get("threshold"), ModelRunner)
    assert host.storages.get("filesystem").name == "filesystem"
    assert host.executors.get("local").name == "local"
