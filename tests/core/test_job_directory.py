import os
from datetime import UTC, datetime

import numpy as np
import pytest
from small_disks import fill, small_disk_at

from cryomamba_core.errors import ErrorInfo, StorageDamaged, StorageError
from cryomamba_core.events import StateChanged
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.job_directory import Checkpoint, JobDirectory, JobSpec
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.previews import Preview

GRID = VoxelGrid(shape=(2, 3, 4), voxel_size=(10, 10, 10))
SPEC = JobSpec(
    job_id="j",
    config=JobConfig(source=Source(path="/a.mrc"), runner="threshold"),
    source="/a.mrc",
    source_name="a.mrc",
    grid=GRID,
    device="cpu",
)


@pytest.fixture
def directory(tmp_path):
    directory = JobDirectory(tmp_path / "job")
    directory.begin_attempt(SPEC)
    return directory


def event(seq):
    return StateChanged(seq=seq, at=datetime.now(UTC), state=JobState.RUNNING, attempt=1)


def test_the_specification_survives(directory):
    assert directory.spec() == SPEC


def test_events_are_read_on_from_where_one_was(directory):
    directory.append_event(event(1))
    [(first, offset)] = directory.events()
    directory.append_event(event(2))
    [(second, _)] = directory.events(offset)
    assert (first.seq, second.seq) == (1, 2)


def test_a_torn_last_line_is_left_out_until_it_is_whole(directory):
    directory.append_event(event(1))
    with (directory.path / "events.jsonl").open("ab") as stream:
        stream.write(b'{"type": "sta')
    assert [found.seq for found, _ in directory.events()] == [1]


def test_an_event_that_a_full_disk_cuts_off_does_not_take_the_next_with_it(tmp_path):
    with small_disk_at(tmp_path / "disk", 1) as disk:
        directory = JobDirectory(disk / "job")
        directory.begin_attempt(SPEC)
        file = directory.path / "events.jsonl"
        file.write_bytes(b"\n" * (os.sysconf("SC_PAGE_SIZE") - 10))  # ten bytes of the next event find room
        ballast = fill(disk)
        with pytest.raises(OSError, match="No space left") as caught:
            directory.append_event(event(1))
        assert ErrorInfo.of(caught.value).code == "storage/full"
        ballast.unlink()
        directory.append_event(event(2))
        assert [found.seq for found, _ in directory.events()] == [2]


def test_a_line_that_is_no_event_does_not_hide_the_next(directory):
    (directory.path / "events.jsonl").write_bytes(b"\x00\x00\n")
    directory.append_event(event(2))
    assert [found.seq for found, _ in directory.events()] == [2]


def test_a_new_attempt_clears_what_belongs_to_the_last_and_keeps_labels_and_checkpoint(directory):
    directory.append_event(event(1))
    directory.order_cancel()
    directory.beat()
    (directory.artifacts_path / "mask.mrc").touch()
    directory.open_labels(GRID, np.dtype(np.uint8), create=True).close()
    directory.write_checkpoint(Checkpoint(rows=1, dtype="uint8"))
    directory.begin_attempt(SPEC)
    assert not list(directory.events())
    assert not directory.cancel_ordered
    assert directory.silence() is None
    assert not list(directory.artifacts_path.iterdir())
    assert directory.checkpoint() == Checkpoint(rows=1, dtype="uint8")
    assert directory.labels_path.exists()


def test_the_newest_preview_replaces_the_one_before(directory):
    assert directory.preview() is None
    for sequence in (1, 2):
        directory.write_preview(
            Preview.pack(
                np.zeros(GRID.shape, np.uint8),
                sequence=sequence,
                factor=1,
                grid=GRID,
                covered=Region.of_shape(GRID.shape),
                provisional=False,
            )
        )
    assert directory.preview().sequence == 2


def test_a_heart_that_beats_is_not_silent(directory):
    directory.beat()
    os.utime(directory.path / "heartbeat", (1, 1))
    assert directory.silence() > 1000
    directory.beat()
    assert directory.silence() < 1000


@pytest.mark.parametrize("fails", ["shutil.rmtree", "pathlib.Path.glob"])
def test_no_checkpoint_speaks_of_labels_that_are_gone_wherever_their_removal_ends(directory, monkeypatch, fails):
    directory.open_labels(GRID, np.dtype(np.uint8), create=True).close()
    (directory.made_lasting() / "of a runner").touch()
    shard = directory.shard(1)
    shard.begin_attempt(SPEC)
    for each in (directory, shard):
        each.write_checkpoint(Checkpoint(rows=1, dtype="uint8"))
    with monkeypatch.context() as broken:
        broken.setattr(fails, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            directory.clear_labels()
    assert directory.labels_path.exists()
    assert directory.checkpoint() is None
    assert shard.path.exists() == fails.startswith("shutil")
    directory.clear_labels()
    assert not directory.labels_path.exists()
    assert not (directory.path / "lasting").exists()


@pytest.mark.parametrize(("name", "read"), [("checkpoint", "checkpoint"), ("params", "settled")])
def test_what_cannot_be_read_is_not_taken_for_nothing(directory, name, read):
    path = directory.path / f"{name}.json"
    assert getattr(directory, read)() is None
    path.write_text("{")
    assert getattr(directory, read)() is None
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match=f"{name}.json cannot be read"):
        getattr(directory, read)()


def test_a_specification_that_cannot_be_read_is_said_to_be_damaged(directory):
    (directory.path / "job.json").write_text("{}")
    with pytest.raises(StorageDamaged):
        directory.spec()
