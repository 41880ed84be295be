"""What only ``local:`` does: light to register, paths and model folders of the user, one user's jobs."""

import subprocess
import sys

import engines
import pytest
from engines import make_host, scripted_engine, steps

from cryomamba_core.errors import InputError, PluginUnavailable, StorageDamaged, UnknownModel, UnusableModel
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Credentials, ModelRunner
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.labels import name_labels
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_server.local import transport
from cryomamba_server.local.session import LocalSession, user_name
from cryomamba_server.local.transport import LocalTransport


class FolderRunner(ModelRunner):
    """Installs a folder that holds a file ``weights``."""

    name = "folders"
    params_type = engines.strangers.StepParams

    def __init__(self):
        self.installed = {}

    @hookimpl
    def cryomamba_register_runners(self, register):
        register(self)

    def models(self):
        return tuple(self.installed.values())

    def recognises(self, folder):
        return (folder / "weights").exists()

    def install(self, folder, *, name=None, options=None):
        assert name is None
        info = ModelInfo(name=f"{folder.name}-12ab", runner=self.name, labels=name_labels({1: "x"}))
        return self.installed.setdefault(info.name, info)

    def plan(self, model, grid, params, device):
        return RunPlan(tiles=1, ram_bytes=1)

    def segment(self, volume, params, context):
        raise AssertionError("nothing was to be segmented")


@pytest.fixture
def runner():
    return FolderRunner()


def local(engine):
    return LocalSession(engine, engine._host)


def test_registering_the_transport_imports_nothing_heavy():
    code = "import sys, cryomamba_server.local.plugin; sys.exit('sqlalchemy' in sys.modules or 'trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_named_with_the_command_that_installs_it(settings, monkeypatch):
    monkeypatch.setattr(transport, "NEEDED", ("sqlalchemy", "no_such_package"))
    with pytest.raises(PluginUnavailable, match="needs no_such_package") as refused:
        LocalTransport(make_host(settings), settings).open("local:", Credentials())
    assert refused.value.hint == "install it with: pip install 'cryomamba[server]'"


def test_an_address_with_a_place_is_refused(settings):
    with pytest.raises(InputError, match="names a place"):
        LocalTransport(make_host(settings), settings).open("local://elsewhere", Credentials())


async def test_a_path_is_taken_from_the_working_directory_and_its_file_is_used_in_place(
    settings, tomogram, monkeypatch
):
    monkeypatch.chdir(tomogram.parent)
    async with scripted_engine(settings, slots=()) as engine:
        job = await local(engine).submit(steps(tomogram.name))
        assert job.config.source.path == str(tomogram)
        assert job.owner == user_name()
        assert not list(engine.storage.list("raw/"))


async def test_a_model_folder_is_installed_and_its_name_is_used(settings, tomogram, tmp_path, runner, monkeypatch):
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "weights").touch()
    monkeypatch.chdir(tmp_path)
    async with scripted_engine(settings, slots=(), plugins=[runner]) as engine:
        for path in (str(folder), "trained"):
            config = JobConfig(source=Source(path=str(tomogram)), model=path)
            job = await local(engine).submit(config)
            assert (job.config.model, job.config.runner) == ("trained-12ab", "folders")
            await local(engine).plan(config)
        assert len(runner.installed) == 1
        with pytest.raises(UnknownModel):  # the engine itself opens no folders
            await engine.submit(JobConfig(source=Source(path=str(tomogram)), model=str(folder)), owner="ada")


async def test_a_folder_that_is_no_model_is_refused(settings, tomogram, tmp_path, runner):
    async with scripted_engine(settings, slots=(), plugins=[runner]) as engine:
        with pytest.raises(UnusableModel, match="no runner recognises"):
            await local(engine).submit(JobConfig(source=Source(path=str(tomogram)), model=str(tmp_path)))
        with pytest.raises(UnknownModel):
            await local(engine).submit(JobConfig(source=Source(path=str(tomogram)), model=str(tmp_path / "none")))


async def test_the_name_of_an_installed_model_wins_over_a_folder_of_that_name(
    settings, tomogram, tmp_path, runner, monkeypatch
):
    (tmp_path / "steps").mkdir()
    monkeypatch.chdir(tmp_path)
    async with scripted_engine(settings, slots=(), plugins=[runner]) as engine:
        job = await local(engine).submit(JobConfig(source=Source(path=str(tomogram)), model="steps"))
        assert job.config.runner == "steps"


async def test_an_artifact_that_was_changed_behind_our_back_is_not_handed_out(settings, tomogram, tmp_path):
    async with scripted_engine(settings) as engine:
        session = local(engine)
        job = await session.submit(steps(tomogram))
        await engines.heard(engine, job.id)
        (settings.data_dir / "artifacts" / job.id / "stats.json").write_text("[]")
        target = tmp_path / "out" / "stats.json"
        target.parent.mkdir()
        with pytest.raises(StorageDamaged):
            await session.download(job.id, "stats.json", target)
        assert not list(target.parent.iterdir())
