"""The conformance suite for `ModelRunner`: what the framework takes for granted of the blocks that a runner yields."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

from cryomamba_core.errors import InvalidParameter, ModelError, ShardsUnavailable, UnknownModel
from cryomamba_core.geometry import Index3
from cryomamba_core.interfaces import JobCanceled, ModelRunner
from cryomamba_core.labels import LabelBlock, label_dtype
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_core.volumes import Volume
from cryomamba_core.wire import from_plain, to_plain

#: Seconds that a runner's threads may take to end.
THREAD_SECONDS = 10.0


class RunnerConformance(ABC):
    """Subclass it, say how to make a runner, and run it with pytest.

    ::

        class TestMyRunner(RunnerConformance):
            def make_runner(self, data_dir):
                return MyRunner(data_dir)

    Override the attributes, `make_volume` or the fixtures where the defaults do not fit.
    """

    #: Model to run; None for the first of `ModelRunner.models`.
    model_name: ClassVar[str | None] = None
    #: Parameters that differ from their defaults.
    params_given: ClassVar[dict[str, Any]] = {}
    #: Further ones that ask for companions of the labels; none for a runner that gives none.
    companions_asked: ClassVar[dict[str, Any]] = {}
    #: Shape (z, y, x) of the volume: small, but of several blocks.
    shape: ClassVar[Index3] = (14, 11, 13)

    @abstractmethod
    def make_runner(self, data_dir: Path) -> ModelRunner:
        """A runner with at least one model; it may install some in the empty folder `data_dir`."""

    def make_volume(self, shape: Index3) -> NDArray[Any]:
        """Grey values to segment, ZYX: noise with a bright ball in it."""
        axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
        ball = sum(axis**2 for axis in axes) < 0.5
        return (np.random.default_rng(11).normal(size=shape) + 4 * ball).astype(np.float32)

    @pytest.fixture
    def runner(self, tmp_path: Path) -> ModelRunner:
        """The runner under test."""
        folder = tmp_path / "data"
        folder.mkdir()
        return self.make_runner(folder)

    @pytest.fixture
    def model(self, runner: ModelRunner) -> ModelInfo:
        """The model under test."""
        return runner.model(self.model_name or runner.models()[0].name)

    @pytest.fixture
    def params(self, runner: ModelRunner) -> Any:
        """The parameters of every run."""
        return from_plain(self.params_given, runner.params_type)

    @pytest.fixture
    def companion_params(self, runner: ModelRunner) -> Any:
        """The parameters of runs that give companions."""
        if not self.companions_asked:
            pytest.skip("the runner gives no companions")
        return from_plain({**self.params_given, **self.companions_asked}, runner.params_type)

    @pytest.fixture
    def volume(self, model: ModelInfo) -> Volume:
        """The volume of every run."""
        return ArrayVolume(self.make_volume(self.shape), voxel_size=model.voxel_size or (10.0, 10.0, 10.0))

    def test_a_runner_has_a_name_and_models_of_its_own(self, runner: ModelRunner) -> None:
        models = runner.models()
        assert isinstance(runner, ModelRunner)
        assert runner.name
        assert models
        assert {model.runner for model in models} == {runner.name}
        assert len({model.name for model in models}) == len(models)

    def test_labels_are_ordered_named_and_not_the_background(self, runner: ModelRunner) -> None:
        for model in runner.models():
            values = [label.value for label in model.labels]
            assert values
            assert values == sorted(set(values))
            assert 1 <= values[0] <= values[-1] <= np.iinfo(np.uint16).max
            assert all(label.name and label.color.startswith("#") for label in model.labels)

    def test_models_are_found_by_name_and_unknown_ones_are_not(self, runner: ModelRunner) -> None:
        for model in runner.models():
            assert runner.model(model.name) == model
        with pytest.raises(UnknownModel) as caught:
            runner.model("no such model")
        assert caught.value.hint

    def test_what_is_no_model_is_not_installed(self, runner: ModelRunner, tmp_path: Path) -> None:
        folder = tmp_path / "nothing"
        folder.mkdir()
        before = runner.models()
        assert runner.recognises(folder) is False
        with pytest.raises(ModelError):
            runner.install(folder, name="nothing")
        assert runner.models() == before

    def test_every_parameter_has_a_default_and_a_help_text(self, runner: ModelRunner) -> None:
        assert attrs.has(runner.params_type)
        for parameter in attrs.fields(runner.params_type):
            assert parameter.default is not attrs.NOTHING, f"{parameter.name} has no default"
            assert parameter.metadata.get("help"), f"{parameter.name} has no metadata['help']"

    def test_parameters_travel(self, runner: ModelRunner, params: Any) -> None:
        defaults = from_plain({}, runner.params_type)
        assert defaults == runner.params_type()
        for value in (defaults, params):
            assert from_plain(to_plain(value), runner.params_type) == value
            assert hash(value) is not None, "parameters are frozen"

    def test_an_unknown_parameter_is_refused(self, runner: ModelRunner) -> None:
        with pytest.raises(InvalidParameter):
            from_plain({"no such parameter": 1}, runner.params_type)

    def test_a_plan_needs_the_grid_only(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any
    ) -> None:
        plan = runner.plan(model, volume.grid, params, "cpu")
        assert isinstance(plan, RunPlan)
        assert plan.tiles > 0
        assert plan.ram_bytes > 0
        assert plan.vram_bytes >= 0
        assert plan.disk_bytes >= 0
        assert plan.seconds is None or plan.seconds > 0
        assert runner.plan(model, volume.grid, params, "cpu") == plan

    def test_a_volume_is_accepted_unread(self, runner: ModelRunner, model: ModelInfo, volume: Volume) -> None:
        unread = ArrayVolume(self.make_volume(self.shape), grid=volume.grid)
        runner.check_volume(model, unread)
        assert not unread.reads

    def test_final_blocks_cover_each_voxel_once_with_labels_of_the_model(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any
    ) -> None:
        context = RecordingContext(model, volume)
        allowed = [0, *(label.value for label in model.labels)]
        times = np.zeros(volume.grid.shape, np.int64)
        for block in runner.segment(volume, params, context):
            assert isinstance(block, LabelBlock)
            assert volume.grid.whole.contains(block.region)
            assert np.isin(block.labels, allowed).all()
            if not block.provisional:
                assert sorted(block.companions) == sorted(each.name for each in runner.companions(model, params))
            times[block.region.slices] += not block.provisional
        assert (times == 1).all()

    def test_orders_to_stop_are_looked_for(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any
    ) -> None:
        context = RecordingContext(model, volume)
        blocks = sum(1 for _ in runner.segment(volume, params, context))
        assert context.checkpoints >= blocks, "look for the order to cancel before each block at least"

    def test_the_same_volume_has_the_same_labels(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any
    ) -> None:
        first = _collect(runner.segment(volume, params, RecordingContext(model, volume)), model, volume)
        second = _collect(runner.segment(volume, params, RecordingContext(model, volume)), model, volume)
        np.testing.assert_array_equal(first, second)

    def test_companions_come_with_labels_that_are_the_same_without(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any, companion_params: Any
    ) -> None:
        names = [companion.name for companion in runner.companions(model, companion_params)]
        assert names, "companions_asked asks for none"
        assert len(set(names)) == len(names)
        with_them = list(_final(runner.segment(volume, companion_params, RecordingContext(model, volume))))
        assert all(sorted(block.companions) == sorted(names) for block in with_them)
        without = _collect(runner.segment(volume, params, RecordingContext(model, volume)), model, volume)
        np.testing.assert_array_equal(_collect(with_them, model, volume), without)

    @pytest.mark.parametrize("part", [0.0, 0.5])
    def test_a_run_that_goes_on_after_final_rows_has_the_same_companions(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, companion_params: Any, part: float
    ) -> None:
        axis = runner.sweep_axis(model, volume.grid, companion_params, "cpu")
        final_rows = 1 + round(part * (volume.grid.shape[axis] - 2))
        whole = list(_final(runner.segment(volume, companion_params, RecordingContext(model, volume))))
        context = RecordingContext(model, volume, final_rows=final_rows)
        later = list(_final(runner.segment(volume, companion_params, context)))
        for companion in runner.companions(model, companion_params):
            first, second = (_companion(blocks, companion.name, volume) for blocks in (whole, later))
            assert first.any(), f"{companion.name} is 0 everywhere"
            for values in (first, second):
                np.moveaxis(values, axis, 0)[:final_rows] = 0
            np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 1.0])
    def test_a_run_that_goes_on_after_final_rows_has_the_same_labels(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any, part: float
    ) -> None:
        whole = _collect(runner.segment(volume, params, RecordingContext(model, volume)), model, volume)
        axis = runner.sweep_axis(model, volume.grid, params, "cpu")
        final_rows = 1 + round(part * (volume.grid.shape[axis] - 2))
        context = RecordingContext(model, volume, final_rows=final_rows)
        labels, times = np.zeros_like(whole), np.zeros(whole.shape, np.int64)
        for block in runner.segment(volume, params, context):
            if not block.provisional:
                labels[block.region.slices] = block.labels
                times[block.region.slices] += 1
        earlier, later = np.split(np.moveaxis(times, axis, 0), [final_rows])
        assert (later == 1).all()
        assert (earlier <= 1).all()
        np.testing.assert_array_equal(labels[times == 1], whole[times == 1])

    @pytest.mark.parametrize("count", [1, 3])
    def test_shards_have_the_labels_of_the_whole(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any, count: int
    ) -> None:
        axis, extent = _axis(runner, model, volume, params)
        bounds = self._bounds(runner, model, volume, params, count)
        assert (bounds[0], bounds[-1]) == (0, extent)
        assert list(bounds) == sorted(set(bounds))
        assert len(bounds) - 1 <= count
        whole = _collect(runner.segment(volume, params, RecordingContext(model, volume)), model, volume)
        labels, times = np.zeros_like(whole), np.zeros(whole.shape, np.int64)
        for rows in pairwise(bounds):
            own = np.zeros(whole.shape, np.int64)
            for block in runner.segment(volume, params, RecordingContext(model, volume, shard=rows)):
                if not block.provisional:
                    labels[block.region.slices] = block.labels
                    own[block.region.slices] += 1
            others = np.delete(np.moveaxis(own, axis, 0), np.arange(*rows), axis=0)
            assert not others.any(), "a shard leaves out the rows of the others"
            times += own
        assert (times == 1).all()
        np.testing.assert_array_equal(labels, whole)

    def test_a_shard_goes_on_after_its_final_rows(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any
    ) -> None:
        axis, _ = _axis(runner, model, volume, params)
        bounds = self._bounds(runner, model, volume, params, 2)
        first, stop = bounds[-2:]
        whole = _collect(runner.segment(volume, params, RecordingContext(model, volume)), model, volume)
        context = RecordingContext(model, volume, shard=(first, stop), final_rows=first + (stop - first) // 2)
        labels, times = np.zeros_like(whole), np.zeros(whole.shape, np.int64)
        for block in runner.segment(volume, params, context):
            if not block.provisional:
                labels[block.region.slices] = block.labels
                times[block.region.slices] += 1
        assert (np.moveaxis(times, axis, 0)[context.final_rows :] == 1).all()
        np.testing.assert_array_equal(labels[times == 1], whole[times == 1])

    def test_companions_do_not_depend_on_how_the_volume_is_divided(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, companion_params: Any
    ) -> None:
        bounds = self._bounds(runner, model, volume, companion_params, 3)
        whole = list(_final(runner.segment(volume, companion_params, RecordingContext(model, volume))))
        divided: list[LabelBlock] = []
        for shard in pairwise(bounds):
            context = RecordingContext(model, volume, shard=shard, final_rows=shard[0])
            divided += _final(runner.segment(volume, companion_params, context))
        for companion in runner.companions(model, companion_params):
            first, second = (_companion(blocks, companion.name, volume) for blocks in (whole, divided))
            np.testing.assert_array_equal(first, second)

    def _bounds(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any, count: int
    ) -> tuple[int, ...]:
        try:
            return runner.shard_bounds(model, volume.grid, params, "cpu", count)
        except ShardsUnavailable:
            pytest.skip("the runner cannot divide a volume")

    @pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
    def test_a_canceled_run_stops_at_the_next_checkpoint_and_leaves_no_thread(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any, part: float
    ) -> None:
        complete = RecordingContext(model, volume)
        for _ in runner.segment(volume, params, complete):
            pass
        threads = set(threading.enumerate())
        context = RecordingContext(model, volume, cancel_at=1 + round(part * (complete.checkpoints - 1)))
        blocks = runner.segment(volume, params, context)
        with pytest.raises(JobCanceled):
            for _ in blocks:
                pass
        assert next(blocks, None) is None
        assert not _left_over(threads)

    def test_a_run_may_be_left_at_any_block(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any
    ) -> None:
        threads = set(threading.enumerate())
        blocks = runner.segment(volume, params, RecordingContext(model, volume))
        assert isinstance(blocks, Generator), "write segment with yield: the framework closes what it leaves early"
        assert next(blocks, None) is not None
        blocks.close()
        assert not _left_over(threads)
        untouched = runner.segment(volume, params, RecordingContext(model, volume))
        assert isinstance(untouched, Generator)
        untouched.close()

    def test_the_volume_is_read_in_regions_and_left_open(
        self, runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any
    ) -> None:
        if not isinstance(volume, ArrayVolume):
            pytest.skip("only an ArrayVolume keeps account of what was read")
        for _ in runner.segment(volume, params, RecordingContext(model, volume)):
            pass
        assert volume.reads
        assert not volume.closed, "the volume belongs to the caller"


def _axis(runner: ModelRunner, model: ModelInfo, volume: Volume, params: Any) -> tuple[int, int]:
    """The axis of the sweep, and the volume's extent there."""
    axis = runner.sweep_axis(model, volume.grid, params, "cpu")
    return axis, volume.grid.shape[axis]


def _collect(blocks: Iterable[LabelBlock], model: ModelInfo, volume: Volume) -> NDArray[Any]:
    labels = np.zeros(volume.grid.shape, label_dtype(model.highest_label))
    for block in blocks:
        if not block.provisional:
            labels[block.region.slices] = block.labels
    return labels


def _final(blocks: Iterable[LabelBlock]) -> Iterator[LabelBlock]:
    return (block for block in blocks if not block.provisional)


def _companion(blocks: Iterable[LabelBlock], name: str, volume: Volume) -> NDArray[np.uint8]:
    values = np.zeros(volume.grid.shape, np.uint8)
    for block in blocks:
        values[block.region.slices] = block.companions[name]
    return values


def _left_over(before: set[threading.Thread]) -> list[threading.Thread]:
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(THREAD_SECONDS)
    return [thread for thread in new if thread.is_alive()]
