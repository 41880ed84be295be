"""Jobs of several shards: what the engine makes of them before and while they run."""

import engines
import pytest
import strangers
import trio
from attrs import evolve
from engines import OWNER, ExecutorPlugin, ScriptedExecutor, heard, make_host, scripted_engine, steps

from cryomamba_core.errors import DoesNotFit, InvalidParameter, PluginFault, ShardsUnavailable
from cryomamba_core.events import Failed
from cryomamba_core.interfaces import ModelRunner
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import MAX_SHARDS, JobState
from cryomamba_server.engine.engine import open_engine
from cryomamba_server.engine.fitting import Memory

GATED = "while not os.path.exists(spec.config.label): time.sleep(0.01)\n" + engines.SUCCEED


class DividingExecutor(ScriptedExecutor):
    def places(self, resources, devices, count):
        return [evolve(resources, device=device) for device in devices[:count]]


def dividing_engine(settings, script=engines.SUCCEED, *, slots=("cpu",)):
    plugin = ExecutorPlugin(DividingExecutor(script, slots=slots))
    return open_engine(make_host(settings, plugin), settings)


@pytest.mark.parametrize("shards", [0, -1, MAX_SHARDS + 1, True])
def test_a_number_of_shards_that_makes_no_sense_is_refused(tomogram, shards):
    with pytest.raises(InvalidParameter, match="shards"):
        evolve(steps(tomogram), shards=shards)


async def test_a_runner_that_cannot_divide_a_volume_is_named_before_anything_is_queued(settings, tomogram, monkeypatch):
    monkeypatch.setattr(strangers.StepRunner, "shard_bounds", ModelRunner.shard_bounds)
    async with dividing_engine(settings) as engine:
        for ask in (engine.plan, engine.submit):
            with pytest.raises(ShardsUnavailable, match="runner steps") as caught:
                await ask(evolve(steps(tomogram), shards=2), owner=OWNER)
            assert (caught.value.code, caught.value.hint) == ("plugin/no-shards", "ask for one shard")
        assert not await engine.jobs(owner=OWNER)


async def test_an_executor_that_runs_whole_jobs_only_is_named_before_anything_is_queued(settings, tomogram):
    async with scripted_engine(settings) as engine:
        with pytest.raises(ShardsUnavailable, match="executor local"):
            await engine.submit(evolve(steps(tomogram), shards=2), owner=OWNER)
        assert not await engine.jobs(owner=OWNER)


async def test_there_are_no_more_shards_than_the_volume_can_be_cut_into(settings, tomogram):
    async with dividing_engine(settings, slots=("cuda:0", "cuda:1")) as engine:
        plan = await engine.plan(evolve(steps(tomogram), shards=9), owner=OWNER)
        assert (plan.run.shards, plan.run.shards_at_once, plan.run.ram_bytes) == (6, 2, 120)
        assert plan.run.notes == ("9 shards were asked for, and the volume can be cut into 6",)
        job = await engine.submit(evolve(steps(tomogram), shards=9), owner=OWNER)
        assert job.config.shards == 6
        await heard(engine, job.id)
        assert (await engine.plan(steps(tomogram), owner=OWNER)).run.shards == 1


async def test_shards_that_do_not_fit_into_memory_together_are_refused(settings, tomogram):
    async with dividing_engine(settings, slots=("cuda:0", "cuda:1", "cuda:2")) as engine:
        engine._memory = Memory(ram_bytes=300)
        await engine.plan(evolve(steps(tomogram), shards=2), owner=OWNER)
        with pytest.raises(DoesNotFit, match="3 shards at a time") as caught:
            await engine.plan(evolve(steps(tomogram), shards=3), owner=OWNER)
        assert caught.value.hint == "ask for 2 at most"


async def test_a_job_of_shards_takes_free_devices_and_gives_them_back(settings, tomogram, tmp_path):
    def gated(name, shards):
        return evolve(steps(tomogram), label=str(tmp_path / name), shards=shards)

    def devices(job):
        return JobDirectory(settings.jobs_dir / job.id).spec().devices

    async def started(job):
        with trio.fail_after(engines.DEADLINE):
            while next(JobDirectory(settings.jobs_dir / job.id).events(), None) is None:
                await trio.sleep(0.01)

    async with dividing_engine(settings, GATED, slots=("cuda:0", "cuda:1", "cpu")) as engine:
        shared = await engine.submit(gated("first", 3), owner=OWNER)
        await started(shared)
        alone = await engine.submit(gated("second", 1), owner=OWNER)
        await started(alone)
        assert devices(shared) == ("cuda:0", "cuda:1")
        assert devices(alone) == ("cpu",)
        assert engine.scheduler._busy == {"cuda:0": 1, "cuda:1": 1, "cpu": 1}
        (tmp_path / "first").touch()
        await heard(engine, shared.id)
        after = await engine.submit(gated("second", 2), owner=OWNER)
        await started(after)
        assert devices(after) == ("cuda:0", "cuda:1")
        (tmp_path / "second").touch()
        for job in (alone, after):
            await heard(engine, job.id)


async def test_the_next_engine_knows_which_devices_a_job_of_shards_has(settings, tomogram, tmp_path):
    config = evolve(steps(tomogram), label=str(tmp_path / "gate"), shards=2)
    plugin = ExecutorPlugin(DividingExecutor(GATED, slots=("cuda:0", "cuda:1")))
    async with open_engine(make_host(settings, plugin), settings) as engine:
        job = await engine.submit(config, owner=OWNER)
        with trio.fail_after(engines.DEADLINE):
            while next(JobDirectory(settings.jobs_dir / job.id).events(), None) is None:
                await trio.sleep(0.01)
    async with open_engine(make_host(settings, plugin), settings) as engine:
        [work] = engine.ledger.store.active()
        assert (work.device, work.devices) == ("cuda:0", ("cuda:0", "cuda:1"))
        assert engine.scheduler._busy == {"cuda:0": 1, "cuda:1": 1}
        (tmp_path / "gate").touch()
        await heard(engine, job.id)
        assert (await engine.job(job.id, owner=OWNER)).state is JobState.COMPLETED


async def test_a_slot_whose_name_the_store_could_not_tell_from_two_is_refused(settings):
    with pytest.raises(InvalidParameter, match="a slot called 'cuda:0,cuda:1'") as caught:
        async with dividing_engine(settings, slots=("cpu", "cuda:0,cuda:1")):
            pass
    assert "CRYOMAMBA_DEVICES" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "method", "answer", "message"),
    [
        (strangers.StepRunner, "shard_bounds", (0, 7), "runner steps cuts 6 rows for 2 shards"),
        (DividingExecutor, "places", (), "executor local has 0 places for 2 shards"),
    ],
    ids=["bounds", "places"],
)
async def test_a_plugin_that_divides_a_job_wrongly_is_named_before_anything_is_queued(
    settings, tomogram, monkeypatch, kind, method, answer, message
):
    monkeypatch.setattr(kind, method, lambda *_: answer)
    async with dividing_engine(settings) as engine:
        with pytest.raises(PluginFault, match=message):
            await engine.submit(evolve(steps(tomogram), shards=2), owner=OWNER)
        assert not await engine.jobs(owner=OWNER)


async def test_nothing_is_left_of_the_worker_of_a_job_that_has_failed(settings, tomogram):
    ended = []

    class Ending(ScriptedExecutor):
        def cancel(self, handle, grace=10.0):
            ended.append(handle)
            super().cancel(handle, grace)

    script = "log.failed(ErrorInfo.of(OutOfMemory('no room')))"
    async with open_engine(make_host(settings, ExecutorPlugin(Ending(script))), settings) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        [*_, last] = await heard(engine, job.id)
    assert isinstance(last, Failed)
    assert len(ended) == 1
