"""Volumes of another voxel size: stock nnU-Net is the judge of voxels, scores and labels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="scores are tensors")

from cryomamba_backends.nnunet import resampling  # noqa: E402
from cryomamba_backends.nnunet.grid_change import GridChange  # noqa: E402
from cryomamba_backends.nnunet.resampling import ResampledRows, scores_on_source  # noqa: E402
from cryomamba_backends.nnunet.resampling_plans import Resampling  # noqa: E402

#: Extent, voxel size and wanted voxel size.
CASES = {
    "finer": ((40, 37, 45), (10, 10, 10), (8, 8, 8)),
    "coarser": ((150, 17, 25), (10, 10, 10), (13, 13, 13)),
    "along one axis": ((30, 20, 25), (10, 10, 10), (10, 10, 8)),
    "to long voxels in Z": ((30, 20, 25), (10, 10, 10), (40, 10, 10)),
    "long in Z, within sections": ((20, 27, 25), (40, 10, 10), (40, 8, 8)),
    "long in Z": ((20, 27, 25), (40, 10, 10), (33, 13, 13)),
    "long in Y": ((130, 17, 25), (10, 40, 10), (8, 35, 11)),
    "long in X": ((40, 27, 13), (10, 10, 40), (13, 8, 35)),
    "long in X, along it": ((40, 27, 13), (10, 10, 40), (10, 10, 35)),
    "hardly a voxel": ((2, 5, 3), (10, 10, 10), (8, 4, 9)),
}

#: Of the largest absolute voxel, or score: what single precision leaves of three axes one after another.
SINGLE = 5e-7


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Many blocks, so that their borders are seen."""
    monkeypatch.setattr(resampling, "BLOCK_VOXELS", 3000)


@pytest.fixture(scope="module")
def stock():
    pytest.importorskip("nnunetv2", reason="stock nnU-Net is the judge")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.preprocessing.resampling import default_resampling
    return default_resampling


@pytest.fixture
def values():
    return np.random.default_rng(0).normal


def resampled(array: np.ndarray, change: GridChange, *, exact: bool, first: int = 0) -> np.ndarray:
    rows = ResampledRows(lambda start, stop: array[start:stop], change, exact=exact)
    steps = range(first, change.target[0], 7)
    return np.concatenate([rows(start, min(start + 7, change.target[0])) for start in steps])


@pytest.mark.parametrize(("extent", "size", "wanted"), CASES.values(), ids=CASES)
def test_grids_have_as_many_voxels_as_those_of_stock(extent, size, wanted, stock):
    change = GridChange.between(extent, size, wanted)
    assert change.target == tuple(stock.compute_new_shape(extent, size, wanted))
    separate, axis = stock.determine_do_sep_z_and_axis(None, size, wanted)
    assert change.data.sections == (axis if separate else None)


@pytest.mark.parametrize("separate", [None, False, True])
@pytest.mark.parametrize("size", [(10, 10, 10), (31, 10, 10), (10, 30, 10), (40, 10, 40), (10, 12, 40)])
@pytest.mark.parametrize("wanted", [(10, 10, 10), (11, 10, 50)])
def test_sections_are_judged_as_by_stock(separate, size, wanted, stock):
    change = GridChange.between((9, 9, 9), size, wanted, resampling=Resampling.usual(separate=separate))
    for transfer, sizes in ((change.data, (size, wanted)), (change.scores, (wanted, size))):
        found, axis = stock.determine_do_sep_z_and_axis(separate, *sizes)
        assert transfer.sections == (axis if found else None)


@pytest.mark.parametrize(("extent", "size", "wanted"), CASES.values(), ids=CASES)
def test_voxels_are_those_of_stock(extent, size, wanted, stock, values):
    array = values(size=extent).astype(np.float32)
    change = GridChange.between(extent, size, wanted)
    expected = stock.resample_data_or_seg_to_shape(
        array[None], change.target, size, wanted, is_seg=False, order=3, order_z=0, force_separate_z=None
    )[0]
    np.testing.assert_array_equal(resampled(array, change, exact=True), expected)
    np.testing.assert_allclose(resampled(array, change, exact=False), expected, 0, SINGLE * np.abs(array).max())
    middle = change.target[0] // 2
    np.testing.assert_array_equal(resampled(array, change, exact=True, first=middle), expected[middle:])


@pytest.mark.parametrize(("extent", "size", "wanted"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("resumed", [False, True])
def test_scores_are_those_of_stock(extent, size, wanted, resumed, stock, values):
    change = GridChange.between(extent, size, wanted)
    scores = torch.from_numpy(values(size=(3, *change.target))).half()
    expected = stock.resample_data_or_seg_to_shape(
        scores, extent, wanted, size, is_seg=False, order=1, order_z=0, force_separate_z=None
    )
    wide = stock.resample_data_or_seg_to_shape(
        scores.double(), extent, wanted, size, is_seg=False, order=1, order_z=0, force_separate_z=None
    )
    first = extent[0] // 2 if resumed else 0

    def found(scores, *, exact):
        def pieces(row):
            for start in range(row, change.target[0], 5):
                yield start, scores[:, start : start + 5]

        back = list(scores_on_source(pieces, change, first_row=first, exact=exact))
        assert [row for row, _ in back] == list(np.cumsum([first] + [part.shape[1] for _, part in back])[:-1])
        return torch.cat([part for _, part in back], 1).numpy()

    np.testing.assert_array_equal(found(scores, exact=True), expected[:, first:])
    tolerance = SINGLE * float(scores.abs().max())
    np.testing.assert_allclose(found(scores.float(), exact=False), wide[:, first:], 0, tolerance)


def test_no_row_of_the_volume_is_read_twice_while_it_is_resampled(values):
    array = values(size=(300, 8, 9)).astype(np.float32)
    change = GridChange.between(array.shape, (10, 10, 10), (8, 8, 8))
    read: list[int] = []

    def rows(first, stop):
        read.extend(range(first, stop))
        return array[first:stop]

    resampler = ResampledRows(rows, change, exact=True)
    read.clear()
    for start in range(0, change.target[0], 5):
        resampler(start, start + 5)
    assert read == list(range(300))


MODELS = {
    "finer": ((24, 28, 26), 8.0, (10.0, 10.0, 10.0)),
    "coarser": ((26, 33, 30), 13.0, (10.0, 10.0, 10.0)),
    "long in Z": ((12, 40, 36), (35.0, 11.0, 11.0), (40.0, 10.0, 10.0)),
    "long in X": ((40, 38, 14), (8.0, 12.0, 35.0), (10.0, 10.0, 40.0)),
    "differs in a hundred voxels only": ((30, 34, 36), 10.0, (10.0, 10.0, 9.85)),
}


def spaced(size, patch=(32, 32, 32), axes=(0, 1, 2)):
    def plans(content):
        chosen = content["configurations"]["3d_fullres"]
        sizes = size if isinstance(size, tuple) else (size,) * 3
        chosen["spacing"] = [sizes[axis] for axis in axes]
        chosen["patch_size"] = [patch[axis] for axis in axes]
        content["transpose_forward"] = list(axes)
        content["transpose_backward"] = [int(axis) for axis in np.argsort(axes)]

    return plans


@pytest.mark.parametrize("border", [0, ((2, 3), (1, 0), (4, 1))], ids=["plain", "zeros around"])
@pytest.mark.parametrize(("shape", "wanted", "size"), MODELS.values(), ids=MODELS)
def test_labels_of_another_voxel_size_are_those_of_stock(
    shape, wanted, size, border, runner, edited_model, answer_of, stock_labels, noise
):
    folder = edited_model(plans=spaced(wanted))
    model = runner.install(folder, name="spaced", options={"spacing_unit": "angstrom-as-mm"})
    array = np.pad(noise(shape), border)
    expected = stock_labels(folder, array, mirroring=False, spacing=size)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=size, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)
    assert any("is resampled" in note for note in answer.context.notes)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("size", [(10.0, 11.0, 12.0), (10.0, 11.0, 40.0)])
def test_labels_of_another_voxel_size_and_turned_axes_are_those_of_stock(
    axes, size, runner, edited_model, answer_of, stock_labels, noise
):
    folder = edited_model(plans=spaced((8.0, 10.0, 13.0), (32, 24, 16), axes))
    model = runner.install(folder, name="spaced", options={"spacing_unit": "angstrom-as-mm"})
    array = np.pad(noise((26, 30, 8 if size[2] > 30 else 20)), 2)
    expected = stock_labels(folder, array, mirroring=False, spacing=size)
    assert len(np.unique(expected)) > 1
    answer = answer_of(runner, model, array, mirroring=False, voxel_size=size, mode="exact")
    np.testing.assert_array_equal(answer.labels, expected)


def test_strict_resamples_whatever_stock_does(runner, edited_model, answer_of, stock_labels, noise):
    folder = edited_model(plans=spaced(10.0, (16, 16, 32)))
    model = runner.install(folder, name="spaced")
    array, size = noise((16, 20, 80)), (10.0, 10.0, 10.08)
    expected = stock_labels(folder, array, mirroring=False, spacing=size)
    given = {"mirroring": False, "voxel_size": size, "mode": "exact"}
    np.testing.assert_array_equal(answer_of(runner, model, array, spacing="strict", **given).labels, expected)
    assert (answer_of(runner, model, array, **given).labels != expected).any()


def test_a_resampled_run_that_is_resumed_gives_the_same_bytes(runner, edited_model, answer_of, noise):
    model = runner.install(edited_model(plans=spaced(8.0, (16, 32, 32))), name="spaced")
    array = np.pad(noise((40, 22, 20)), ((3, 2), (0, 0), (0, 0)))
    given = {"mirroring": False, "voxel_size": (10.0, 10.0, 10.0), "mode": "exact"}
    whole = answer_of(runner, model, array, **given)
    for row in (1, 17, 43, 44):
        resumed = answer_of(runner, model, array, final_rows=row, **given)
        np.testing.assert_array_equal(resumed.labels[row:], whole.labels[row:])


@pytest.mark.parametrize(("shape", "size"), [((16, 50, 24), (10.0, 9.0, 11.0)), ((6, 50, 24), (30.0, 9.0, 10.0))])
def test_fast_mode_resamples_along_another_axis_of_the_sweep(shape, size, runner, edited_model, answer_of, noise):
    model = runner.install(edited_model(plans=spaced(8.0, (16, 32, 32))), name="spaced")
    array = noise(shape)
    given = {"mirroring": False, "voxel_size": size, "precision": "single", "coarse": "off"}
    exact, fast = (answer_of(runner, model, array, mode=mode, **given) for mode in ("exact", "fast"))
    assert fast.blocks[-1].start[1] > 0
    # half precision of the sums in exact mode: at most a few near ties in 1,000 voxels of noise
    assert (exact.labels != fast.labels).mean() < 3e-3


def test_rows_may_be_read_again_from_the_start(values):
    array = values(size=(60, 8, 9)).astype(np.float32)
    change = GridChange.between(array.shape, (10, 10, 10), (8, 8, 8))
    rows = ResampledRows(lambda start, stop: array[start:stop], change, exact=False)
    first, again = (np.concatenate([rows(start, start + 5) for start in range(0, 75, 5)]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
