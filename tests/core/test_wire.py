import json
from datetime import UTC, datetime

import cattrs
import numpy as np
import pytest

from cryomamba_core import wire
from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo, InputError, InvalidParameter
from cryomamba_core.events import Completed, Failed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.jobs import JobConfig, JobProgress, JobRecord, JobState, Source
from cryomamba_core.previews import Preview, PreviewPolicy
from cryomamba_core.wire import dump_json, from_plain, load_json, prepare, to_plain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PREVIEW = Preview.pack(
    np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
    sequence=1,
    factor=2,
    grid=VoxelGrid(shape=(2, 2, 2), voxel_size=(20, 20, 20)),
    covered=Region.of_shape((4, 4, 4)),
    provisional=True,
)
EVENTS = [
    (StateChanged(seq=1, at=NOW, state=JobState.RUNNING, attempt=1), "state"),
    (
        Progress(
            seq=2,
            at=NOW,
            progress=JobProgress(stage="segmenting", done=1, total=4, unit="tiles", fraction=0.25, eta_seconds=3.5),
        ),
        "progress",
    ),
    (PreviewReady(seq=3, at=NOW, preview=PREVIEW), "preview"),
    (PreviewReady(seq=3, at=NOW), "preview"),
    (
        Completed(seq=4, at=NOW, artifacts=(Artifact(name="mask.mrc", media_type="x/y", size=3, sha256="00" * 32),)),
        "completed",
    ),
    (Failed(seq=5, at=NOW, error=ErrorInfo(code="a/b", message="m", hint="h", retryable=True)), "error"),
]


@pytest.mark.parametrize(("event", "kind"), EVENTS)
def test_every_event_survives_json_and_says_its_type(event, kind):
    text = dump_json(event, JobEvent)
    assert json.loads(text)["type"] == kind
    assert load_json(text, JobEvent) == event


def test_a_record_survives_json():
    record = JobRecord(
        id="x", owner="me", state=JobState.QUEUED, config=JobConfig(source=Source(path="/a.mrc")), created_at=NOW
    )
    assert load_json(dump_json(record), JobRecord) == record
    assert isinstance(load_json(dump_json(record), JobRecord).state, JobState)


@pytest.mark.parametrize(
    ("plain", "place"),
    [
        ({"source": {"path": "/a"}, "modle": "x"}, "modle"),
        ({"source": {"path": "/a", "x": 1}}, "JobConfig.source"),
        ({"source": {"path": "/a"}, "voxel_size": [1, 2]}, "voxel_size"),
        ({"source": {"path": "/a"}, "voxel_size": ["1", 2, 3]}, "voxel_size[0]"),
        ({"source": {"path": 3}}, "path"),
        ({"source": {"path": "/a"}, "artifacts": "mask.mrc"}, "JobConfig.artifacts"),
        ({}, "source"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(plain, place):
    with pytest.raises(InvalidParameter) as caught:
        from_plain(plain, JobConfig)
    assert place in caught.value.message


@pytest.mark.parametrize("value", [2.5, True, "2", None, float("inf"), float("nan")])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(InvalidParameter, match="max_voxels"):
        from_plain({"max_voxels": value}, PreviewPolicy)


def test_a_whole_number_may_be_written_with_a_point_as_json_allows():
    policy = from_plain({"max_voxels": 2.0}, PreviewPolicy)
    assert policy.max_voxels == 2
    assert type(policy.max_voxels) is int


def test_an_error_of_ours_inside_a_value_is_raised_as_it_is():
    with pytest.raises(InputError, match="either a file id or a path"):
        from_plain({"source": {}}, JobConfig)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(InvalidParameter, match=r"at$"):
        from_plain({"type": "state", "seq": 1, "at": "2026-01-02T03:04:05", "state": "running", "attempt": 1}, JobEvent)


def test_nan_is_not_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json(JobProgress(stage="a", done=1, total=1, unit="x", fraction=float("nan")))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(InvalidParameter, match="not JSON"):
        load_json("{", JobConfig)


def test_what_is_prepared_is_ready(monkeypatch):
    """No function is made when the first value comes, though the dictionary of a later type is met."""
    wire.converter.cache_clear()
    prepare(Progress, JobConfig)
    monkeypatch.setattr(cattrs.converters, "make_dict_structure_fn", None)
    monkeypatch.setattr(cattrs.converters, "make_dict_unstructure_fn", None)
    config = JobConfig(source=Source(path="/a.mrc"), runner="threshold")
    assert from_plain(to_plain(config), JobConfig) == config
    progress = EVENTS[1][0]
    assert from_plain(to_plain(progress), Progress) == progress
    with pytest.raises(TypeError):
        to_plain(PREVIEW)  # nobody prepared for it
    wire.converter.cache_clear()
