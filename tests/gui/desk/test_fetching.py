"""Results of a job on this computer: whole, checked, continued where they were cut off, and not fetched twice."""

import json

import engines
import mrcfile
import numpy as np
import pytest
import servers
import trio
from desks import PLUGINS, item_until, open_desk, submitted, until
from proxies import open_proxy

from cryomamba_core.artifacts import Artifact
from cryomamba_core.durable import sha256_of
from cryomamba_core.errors import ServerUnreachable, UnknownObject
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.wire import load_json
from cryomamba_gui.desk.fetching import folder_of, volume_of, wanted_of
from cryomamba_gui.desk.shelf import NAME, KeptJob

MIB = 1 << 20
#: Headers, control requests and events.
OVERHEAD = 128 << 10


@pytest.fixture
async def server(tmp_path):
    async with servers.open_test_server(tmp_path / "server", installed=True) as server:
        yield server


@pytest.fixture
async def proxy(server):
    async with open_proxy(server.url) as proxy:
        yield proxy


@pytest.fixture
async def desk(proxy, server, tmp_path):
    async with open_desk(tmp_path / "mine", url=proxy.url, token=server.token()) as desk:
        yield desk


@pytest.fixture
def mrc(tmp_path):
    """A tomogram whose mask has 4 MiB."""
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.random.default_rng(1).normal(size=(16, 512, 512)).astype(np.int8))
        file.voxel_size = 10.0
    return path


async def remembered(item):
    """Wait until the folder of a job has its results, as the next window reads them: they come a moment later."""
    with trio.fail_after(engines.DEADLINE):
        while not load_json((item.folder / NAME).read_bytes(), KeptJob).record.artifacts:
            await trio.sleep(0.01)


async def done(desk, path):
    """A job that has ended."""
    config = JobConfig(source=Source(path="/nowhere"), runner="threshold", params={"value": 1.0})
    submission = desk.jobs.outbox.prepare(path, config, auto=True)
    await until(lambda: submission.item is not None, submission.changed)
    await item_until(desk, submission.item, lambda item: item.state.ended)
    assert submission.item.state is JobState.COMPLETED
    return submission.item


def digests(item):
    return {artifact.name: artifact.sha256 for artifact in item.record.artifacts}


async def test_the_mask_the_statistics_and_the_provenance_are_fetched_once(desk, proxy, mrc):
    item = await done(desk, mrc)
    assert not (item.folder / "mask.mrc").exists()
    told = []
    mask = await desk.jobs.fetch(item, lambda done, total: told.append((done, total)))
    assert mask == item.folder / "mask.mrc"
    fetched = {path.name for path in item.folder.iterdir()}
    assert fetched == {"mask.mrc", "stats.json", "manifest.json", "record.json"}
    assert all(sha256_of(item.folder / name) == digests(item)[name] for name in fetched - {"record.json"})
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == sum((item.folder / name).stat().st_size for name in fetched - {"record.json"})
    before = proxy.received
    assert await desk.jobs.fetch(item) == mask
    assert proxy.received - before < OVERHEAD


async def test_what_is_kept_of_a_job_holds_no_address_that_opens_a_door(desk, mrc):
    item = await done(desk, mrc)
    await desk.jobs.fetch(item)
    assert all(artifact.url for artifact in item.record.artifacts)
    kept = json.loads((item.folder / "record.json").read_text())
    assert [artifact["url"] for artifact in kept["record"]["artifacts"]] == [None] * len(item.record.artifacts)


async def test_what_was_cut_off_is_continued(desk, proxy, mrc):
    item = await done(desk, mrc)
    fault = proxy.fail("cut", up=False, after=3 * MIB)
    before = proxy.received
    mask = await desk.jobs.fetch(item)
    assert fault.struck
    assert sha256_of(mask) == digests(item)["mask.mrc"]
    assert proxy.received - before < 5 * MIB


async def test_what_was_damaged_is_fetched_again_and_nothing_else(desk, proxy, mrc):
    item = await done(desk, mrc)
    mask = await desk.jobs.fetch(item)
    (item.folder / "stats.json").write_text("{}")
    before = proxy.received
    await desk.jobs.fetch(item)
    assert sha256_of(item.folder / "stats.json") == digests(item)["stats.json"]
    assert proxy.received - before < OVERHEAD
    with mask.open("r+b") as stream:
        stream.seek(2 * MIB)
        stream.write(b"damaged")
    await desk.jobs.fetch(item)
    assert sha256_of(mask) == digests(item)["mask.mrc"]


async def test_what_is_here_needs_no_engine(desk, proxy, mrc, tmp_path):
    item = await done(desk, mrc)
    mask = await desk.jobs.fetch(item)
    await remembered(item)
    async with open_desk(tmp_path / "mine") as later:
        await until(lambda: later.jobs.items, later.jobs.added)
        [again] = later.jobs.items
        assert await later.jobs.fetch(again) == mask
        mask.unlink()
        with pytest.raises(ServerUnreachable, match="not connected"):
            await later.jobs.fetch(again)


async def test_what_is_kept_here_is_removed_and_can_be_fetched_again(desk, mrc):
    item = await done(desk, mrc)
    mask = await desk.jobs.fetch(item)
    await desk.jobs.delete_local(item)
    assert not item.folder.exists()
    assert desk.jobs.items == (item,)
    assert await desk.jobs.fetch(item) == mask
    assert mask.exists()


async def test_a_job_without_a_mask_says_what_it_made(desk, tmp_path):
    item = await submitted(desk, engines.make_tomogram(tmp_path / "a.npy"), fault="raises")
    await item_until(desk, item, lambda item: item.state.ended)
    with pytest.raises(UnknownObject, match="made: nothing"):
        await desk.jobs.fetch(item)


def artifacts(*names):
    return [Artifact(name=name, media_type="a/b", size=1, sha256="0" * 64) for name in names]


def test_the_mask_is_one_that_can_be_read_here(tmp_path):
    host = engines.make_host(engines.make_settings(tmp_path), *PLUGINS)
    assert volume_of(artifacts("mask.npy", "mask.mrc"), host).name == "mask.mrc"
    assert volume_of(artifacts("mask.tiff", "mask.npy"), host).name == "mask.npy"
    with pytest.raises(UnknownObject, match=r"mask\.tiff") as caught:
        volume_of(artifacts("mask.tiff", "other.mrc"), host)
    assert "mask.mrc" in caught.value.hint
    names = [each.name for each in wanted_of(artifacts("manifest.json", "a.bin", "mask.npy", "stats.json"), host)]
    assert names == ["mask.npy", "manifest.json", "stats.json"]


def test_a_companion_is_one_that_can_be_read_here_and_no_mask(tmp_path):
    host = engines.make_host(engines.make_settings(tmp_path), *PLUGINS)
    made = artifacts("mask.mrc", "doubt.npy", "doubt.mrc", "doubtful.mrc", "doubt.tiff")
    assert volume_of(made, host, stem="doubt").name == "doubt.mrc"
    with pytest.raises(UnknownObject, match="no trust that can be read here"):
        volume_of(made, host, stem="trust")


async def test_a_companion_is_fetched_when_it_is_asked_for_and_once(desk, proxy, tmp_path):
    item = await submitted(desk, engines.make_tomogram(tmp_path / "a.npy"), doubt=1)
    await item_until(desk, item, lambda item: item.state.ended)
    mask = await desk.jobs.fetch(item)
    companion = mask.with_name("doubt.mrc")
    assert not companion.exists()
    assert await desk.jobs.fetch_companion(item, "doubt") == companion
    assert sha256_of(companion) == digests(item)["doubt.mrc"]
    await remembered(item)
    async with open_desk(tmp_path / "mine") as later:
        await until(lambda: later.jobs.items, later.jobs.added)
        [again] = later.jobs.items
        assert await later.jobs.fetch_companion(again, "doubt") == companion, "what is here needs no engine"


@pytest.mark.parametrize("job_id", ["../../etc", "a/b", "..", "", "a" * 300, "CON\n", "\ud800"])
def test_whatever_an_engine_calls_a_job_its_folder_lies_where_it_should(tmp_path, job_id):
    folder = folder_of(tmp_path, "http://there", job_id)
    assert folder.parent.parent == tmp_path
    assert folder.resolve() == folder
    assert folder != folder_of(tmp_path, "http://elsewhere", job_id)
