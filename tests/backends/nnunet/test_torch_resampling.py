"""Models that have volumes resampled by PyTorch: stock nnU-Net is the judge of voxels, scores and labels."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from cascade_plans import cascaded

torch = pytest.importorskip("torch", reason="scores are tensors")

from cryomamba_backends.nnunet import resampling  # noqa: E402
from cryomamba_backends.nnunet.grid_change import GridChange  # noqa: E402
from cryomamba_backends.nnunet.guide import GuideRows  # noqa: E402
from cryomamba_backends.nnunet.params import NNUNetParams  # noqa: E402
from cryomamba_backends.nnunet.resampling import ResampledRows, resampling_bytes, scores_on_source  # noqa: E402
from cryomamba_backends.nnunet.resampling_plans import parse_resampling  # noqa: E402
from cryomamba_core.errors import UnsupportedModel  # noqa: E402
from cryomamba_core.geometry import VoxelGrid, to_index  # noqa: E402
from cryomamba_core.testing.contexts import RecordingContext  # noqa: E402
from cryomamba_core.testing.volumes import ArrayVolume  # noqa: E402

TORCH, SPLINES = "resample_torch_fornnunet", "resample_data_or_seg_to_shape"

#: Arrays that are drawn for each case: above 3,000 in all.
DRAWN = 80

#: Voxels that are resampled at a time: few, so that the borders of many slabs are seen.
BLOCK = 300

#: Of the largest absolute score: what single precision leaves of three axes one after another.
SINGLE = 5e-7

#: What stock allows for sections that are resampled by themselves.
MODES = {
    "usual": {},
    "as one": {"force_separate_z": False},
    "apart": {"force_separate_z": True, "num_threads": 1},
    "linear between sections": {"aniso_axis_mode": "linear", "separate_z_anisotropy_threshold": 2},
    "nearest between sections": {"aniso_axis_mode": "nearest", "force_separate_z": True},
    "nearest within sections": {"mode": "nearest", "force_separate_z": True, "aniso_axis_mode": "linear"},
    "the exact nearest within sections": {"mode": "nearest-exact", "force_separate_z": True},
}


@pytest.fixture(scope="module")
def stock():
    pytest.importorskip("nnunetv2", reason="stock nnU-Net is the judge")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.preprocessing.resampling import default_resampling, resample_torch
    return {TORCH: resample_torch.resample_torch_fornnunet, SPLINES: default_resampling.resample_data_or_seg_to_shape}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(resampling, "BLOCK_VOXELS", BLOCK)
    monkeypatch.setattr(resampling, "LEAST_ROWS", 3)


def resampled_by(function=TORCH, scores=None, *, previous=False, **arguments):
    """Plans of a configuration: a function with arguments, and another one for scores."""
    order = {"order": 3, "order_z": 0} if function == SPLINES else {}
    back = {"order": 1, "order_z": 0} if (scores or function) == SPLINES else {}
    return {
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": {"is_seg": False, **order, **arguments},
        "resampling_fn_probabilities": scores or function,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, **back, **arguments},
        "resampling_fn_seg": TORCH,
        "resampling_fn_seg_kwargs": {"is_seg": True, **arguments},
        "previous_stage": "3d_lowres" if previous else None,
    }


class Drawn:
    """A box of an array whose axes may be turned, and voxel sizes to resample it from and to."""

    def __init__(self, seed, *, channels=1):
        random = np.random.default_rng(seed)
        whole = [int(count) for count in random.integers(2, random.choice([6, 14, 30]), 3)]
        if random.random() < 0.4:
            whole[random.integers(3)] += 150  # PyTorch has another kernel for large sections
        cut = [random.integers(0, 2) * (random.random() < 0.4) for _ in whole]
        self.axes = tuple(int(axis) for axis in (random.permutation(3) if random.random() < 0.6 else range(3)))
        box = tuple(slice(int(low), None) for low in cut)
        strides = (whole[1] * whole[2], whole[2], 1)
        self.values = random.normal(size=(channels, *whole)).astype(np.float32)
        self.voxels = self._turned(self.values, box)
        self.labels = self._turned(random.integers(-1, 4, (1, *whole)).astype(np.float32), box)
        self.extent = to_index(self.voxels.shape[1:])
        self.strides = to_index(strides[axis] for axis in self.axes)
        innermost = self.axes.index(2)  # again another one where sections lie across it
        across = random.choice([innermost, *range(3)]) if random.random() < 0.8 else None
        self.size = tuple(40.0 if axis == across else 10.0 for axis in range(3))
        factors = random.choice([0.5, 0.7, 1.0, 1.0, 1.3, 2.0], 3)
        self.wanted = tuple(size * factor for size, factor in zip(self.size, factors, strict=True))

    def _turned(self, array, box):
        return array.transpose(0, *[axis + 1 for axis in self.axes])[:, *[box[axis] for axis in self.axes]]

    def change(self, plans, *, heads=1):
        change = GridChange.between(
            self.extent,
            self.size,
            self.wanted,
            resampling=parse_resampling(plans),
            strides=self.strides,
            channels=len(self.voxels),
            heads=heads,
        )
        return change if change.changes and min(change.target) > 0 else None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("arguments", MODES.values(), ids=MODES)
def test_voxels_are_those_of_stock(arguments, channels, stock, small_blocks):
    for seed in range(DRAWN):
        drawn = Drawn(seed, channels=channels)
        change = drawn.change(resampled_by(**arguments))
        if change is None:
            continue
        expected = stock[TORCH](drawn.voxels, change.target, drawn.size, drawn.wanted, **arguments)
        for channel, voxels in enumerate(drawn.voxels):
            rows = ResampledRows(lambda first, stop, of=voxels: of[first:stop], change, exact=True, channel=channel)
            found = np.concatenate([rows(row, row + 1) for row in range(change.target[0])])
            np.testing.assert_array_equal(found, expected[channel], err_msg=f"{seed}: {change}")


def pieces_of(scores):
    def pieces(row):
        for start in range(row, scores.shape[1], 3):
            yield start, scores[:, start : start + 3]

    return pieces


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("arguments", MODES.values(), ids=MODES)
def test_scores_are_those_of_stock(arguments, heads, stock, small_blocks):
    for seed in range(DRAWN):
        drawn = Drawn(seed)
        change = drawn.change(resampled_by(**arguments), heads=heads)
        if change is None:
            continue
        shape = (heads, *change.target)
        scores = torch.from_numpy(np.random.default_rng(seed).normal(0, 9, shape)).half()
        expected = stock[TORCH](scores, change.source, drawn.wanted, drawn.size, **arguments)

        first = seed % change.source[0]
        found = torch.cat(
            [part for _, part in scores_on_source(pieces_of(scores), change, first_row=first, exact=True)], 1
        )
        assert torch.equal(found, expected[:, first:]), f"{seed}: {change}"
        wide = scores.float()
        fast = torch.cat(
            [part for _, part in scores_on_source(pieces_of(wide), change, first_row=first, exact=False)], 1
        )
        torch.testing.assert_close(fast, expected[:, first:], rtol=0, atol=SINGLE * float(wide.abs().max()))


@pytest.mark.parametrize("frugal", [False, True])
@pytest.mark.parametrize("arguments", MODES.values(), ids=MODES)
def test_labels_for_a_second_network_are_those_of_stock(arguments, frugal, stock):
    arguments = {**arguments, "memefficient_seg_resampling": frugal}
    values = range(-1, 4)
    for seed in range(DRAWN):
        drawn = Drawn(seed)
        change = drawn.change(resampled_by(previous=True, **arguments))
        if change is None:
            continue
        expected = stock[TORCH](drawn.labels, change.target, drawn.size, drawn.wanted, is_seg=True, **arguments)[0]

        def pieces(row, labels=drawn.labels[0]):
            for start in range(row, len(labels), 4):
                yield start, labels[start : start + 4].astype(np.int32)

        guide = GuideRows(pieces, change, values)
        steps = range(seed % change.target[0], change.target[0], 3)
        found = np.concatenate([guide(row, min(row + 3, change.target[0])) for row in steps], 1)
        told = [expected[steps.start :] == value for value in values]
        np.testing.assert_array_equal(found, told, err_msg=f"{seed}: {change}")


def test_each_row_of_the_volume_is_read_once():
    array = np.random.default_rng(0).normal(size=(300, 8, 9)).astype(np.float32)
    change = GridChange.between(array.shape, (10, 10, 10), (8, 8, 8), resampling=parse_resampling(resampled_by()))
    read = []

    def rows(first, stop):
        read.extend(range(first, stop))
        return array[first:stop]

    resampler = ResampledRows(rows, change, exact=True)
    for start in range(0, change.target[0], 5):
        resampler(start, start + 5)
    assert read == list(range(300))


@pytest.mark.parametrize("size", [(10, 10, 10), (40, 10, 10), (10, 10, 40)])
def test_a_longer_volume_needs_no_more_memory(size):
    plans = parse_resampling(resampled_by())
    needs = []
    for length in (300, 3000):
        change = GridChange.between((length, 900, 900), size, (13, 13, 13), resampling=plans)
        needs.append(resampling_bytes(change, channels=2, heads=4, exact=True))
    assert needs[1] <= 1.05 * needs[0]


def planned(size, patch=(32, 32, 32), axes=(0, 1, 2), **plans):
    def edit(content):
        chosen = content["configurations"]["3d_fullres"]
        chosen.update(spacing=[size[axis] for axis in axes], patch_size=[patch[axis] for axis in axes], **plans)
        content["transpose_forward"] = list(axes)
        content["transpose_backward"] = [int(axis) for axis in np.argsort(axes)]

    return edit


ISOTROPIC = ((24, 28, 26), (8.0, 8.0, 8.0), (10.0, 10.0, 10.0))
RUNS = {
    "finer": (*ISOTROPIC, {}, resampled_by()),
    "mirrored": ((26, 33, 30), (13.0, 13.0, 13.0), (10.0, 10.0, 10.0), {"mirroring": True}, resampled_by()),
    "long in Z": ((12, 40, 36), (35.0, 11.0, 11.0), (40.0, 10.0, 10.0), {}, resampled_by()),
    "wide and long in X": ((60, 120, 7), (12.0, 8.5, 40.0), (10.0, 10.0, 40.0), {}, resampled_by()),
    "scores alone": (*ISOTROPIC, {}, resampled_by(SPLINES, TORCH, force_separate_z=None)),
    "voxels alone": (*ISOTROPIC, {}, resampled_by(TORCH, SPLINES, force_separate_z=None)),
}


@pytest.mark.parametrize(("shape", "wanted", "size", "others", "plans"), RUNS.values(), ids=RUNS)
def test_labels_are_those_of_stock(
    shape, wanted, size, others, plans, runner, edited_model, answer_of, stock_labels, noise
):
    folder = edited_model(plans=planned(wanted, **plans))
    model = runner.install(folder, name="spaced", options={"spacing_unit": "angstrom-as-mm"})
    given = {"mirroring": False, **others}
    array = np.pad(noise(shape), ((2, 1), (0, 0), (0, 0)))
    expected = stock_labels(folder, array, spacing=size, **given)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, array, voxel_size=size, **given)
    np.testing.assert_array_equal(answer.labels, expected)
    assert any("is resampled" in note for note in answer.context.notes)


def test_labels_of_turned_axes_are_those_of_stock(runner, edited_model, answer_of, stock_labels, noise):
    """With its longest voxels along X, a volume lies in memory so that PyTorch takes another kernel for sections."""
    folder = edited_model(plans=planned((12.0, 8.5, 40.0), (32, 32, 8), (2, 0, 1), **resampled_by()))
    model = runner.install(folder, name="spaced", options={"spacing_unit": "angstrom-as-mm"})
    array, size = noise((60, 120, 9)), (10.0, 10.0, 33.0)
    expected = stock_labels(folder, array, spacing=size, mirroring=False)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answer_of(runner, model, array, voxel_size=size, mirroring=False).labels, expected)


@pytest.mark.parametrize(
    ("frugal", "shape", "size"),
    [
        (False, (20, 30, 26), (10.0, 11.0, 9.0)),
        (True, (20, 30, 26), (10.0, 11.0, 9.0)),
        (False, (7, 26, 22), (27.0, 9.0, 8.0)),
    ],
)
def test_a_cascade_is_that_of_stock(frugal, shape, size, runner, cascade, answer_of, stock_labels, noise):
    def plans(content):
        cascaded(content)
        told = resampled_by(memefficient_seg_resampling=frugal)
        del told["previous_stage"]
        content["configurations"]["3d_fullres"].update(told)

    first, second = cascade(plans=plans)
    model = runner.install(second, name="cascade")
    array = np.pad(noise(shape), ((2, 1), (0, 3), (4, 0)))
    before = stock_labels(first, array, mirroring=False, spacing=size)
    expected = stock_labels(second, array, mirroring=False, spacing=size, previous=before)
    assert len(np.unique(before)) > 1
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answer_of(runner, model, array, voxel_size=size, mirroring=False).labels, expected)


def test_fast_mode_is_close_to_stock_and_shards_give_the_same_bytes(
    runner, edited_model, answer_of, stock_labels, vesicles
):
    folder = edited_model(plans=planned((9.0, 9.0, 9.0), (32, 48, 48), **resampled_by()))
    model = runner.install(folder, name="spaced", options={"spacing_unit": "angstrom-as-mm"})
    array, size = vesicles((60, 50, 56)), (10.0, 10.0, 10.0)
    expected = stock_labels(folder, array, spacing=size, mirroring=False)
    assert len(np.unique(expected)) > 1
    given = {"mirroring": False, "mode": "fast", "precision": "single", "coarse": "off"}
    whole = answer_of(runner, model, array, voxel_size=size, **given).labels
    assert (whole != expected).mean() <= 1e-4
    volume = ArrayVolume(array, voxel_size=size)
    for mode, labels in (("fast", whole), ("exact", expected)):
        params = NNUNetParams(**{**given, "mode": mode})
        bounds = runner.shard_bounds(model, volume.grid, params, "cpu", 2)
        assert len(bounds) == 3
        for first, stop in pairwise(bounds):
            blocks = list(runner.segment(volume, params, RecordingContext(model, volume, shard=(first, stop))))
            np.testing.assert_array_equal(np.concatenate([block.labels for block in blocks]), labels[first:stop])


NEVER = "no_resampling_hack"
UNKNOWN = {
    "another mode": resampled_by(mode="bicubic"),
    "another mode between sections": resampled_by(aniso_axis_mode="area"),
    "a GPU": resampled_by(device="cuda"),
    "no such argument": resampled_by(order=3),
    "voxels as labels": {**resampled_by(), "resampling_fn_data_kwargs": {"is_seg": True}},
    "no threads": resampled_by(num_threads=0),
    "scores never": {**resampled_by(), "resampling_fn_probabilities": NEVER},
    "labels as voxels": {**resampled_by(previous=True), "resampling_fn_seg_kwargs": {}},
    "labels though not voxels": {**resampled_by(previous=True), "resampling_fn_data": NEVER},
    "neither labels": {**resampled_by(previous=True), "resampling_fn_seg": NEVER},
}


@pytest.mark.parametrize("plans", UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_done_is_unknown(plans):
    assert parse_resampling(plans).method == "unknown"


def test_a_mode_that_stock_does_not_pass_on_is_no_matter():
    assert parse_resampling(resampled_by(mode="bicubic", force_separate_z=False)).method == "known"


def test_scores_of_voxels_that_are_never_resampled_need_not_be():
    assert parse_resampling({**resampled_by(), "resampling_fn_data": NEVER}).method == "never"


def test_unknown_ways_are_refused_where_a_volume_has_to_be_resampled(runner, edited_model):
    model = runner.install(edited_model(plans=planned((10.0,) * 3, **UNKNOWN["another mode"])), name="x")
    grid = VoxelGrid(shape=(60, 70, 80), voxel_size=(12.0,) * 3)
    with pytest.raises(UnsupportedModel, match=TORCH):
        runner.plan(model, grid, NNUNetParams(), "cpu")
    runner.plan(model, grid, NNUNetParams(spacing="voxels"), "cpu")
