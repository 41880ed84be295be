"""The judge is what stock nnU-Net makes of a whole volume with the same steps."""

import json
import multiprocessing
import multiprocessing.dummy
import multiprocessing.pool
import os
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest

from cryomamba_backends.nnunet import postprocessing
from cryomamba_backends.nnunet.label_scheme import parse_label_scheme
from cryomamba_backends.nnunet.postprocessing import (
    KEEP_LARGEST,
    KeepLargest,
    apply_postprocessing,
    postprocessing_bytes,
    read_postprocessing,
)
from cryomamba_core.errors import UnsupportedModel, UnusableModel
from cryomamba_core.geometry import Region
from cryomamba_core.label_file import LabelFile

SCHEME = parse_label_scheme({"labels": {"background": 0, "membrane": 1, "ribosome": 2, "vesicle": 3}})
REGIONS = parse_label_scheme(
    {
        "labels": {"background": 0, "cell": [1, 2, 5], "nucleus": [2, 5], "spot": [2]},
        "regions_class_order": [1, 2, 3],
    }
)


@pytest.fixture(scope="module")
def stock():
    """Stock's module; what it needs to know of folders is not used."""
    pytest.importorskip("nnunetv2", reason="stock nnU-Net is the judge")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, "unused")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.postprocessing import remove_connected_components

    return remove_connected_components


@pytest.fixture
def described(tmp_path):
    """A ``postprocessing.json`` with the keyword arguments of each step."""

    def write(*arguments, **others):
        content = {"postprocessing_fns": [KEEP_LARGEST] * len(arguments), "postprocessing_kwargs": arguments, **others}
        path = tmp_path / "postprocessing.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def processed(tmp_path, monkeypatch):
    """Labels after some steps, with a few sections a slab."""

    def run(labels, steps, *, slab_voxels=1500, on_slab=lambda: None):
        monkeypatch.setattr(postprocessing, "SLAB_VOXELS", slab_voxels)
        whole = Region.of_shape(labels.shape)
        with LabelFile(tmp_path / "labels.raw", labels.shape, labels.dtype, create=True) as file:
            file.write(whole, labels)
            apply_postprocessing(file, steps, on_slab=on_slab)
            return file[whole.slices]

    return run


def blobs(seed, *, values=(1, 2, 3), dtype=np.uint8, shape=(23, 24, 25), threshold=0.6):
    """Labels in many pieces of many sizes."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    smooth = np.stack([gaussian_filter(random.normal(size=shape), 1.2) for _ in values])
    best = np.asarray(values, dtype)[smooth.argmax(axis=0)]
    return np.where(smooth.max(axis=0) > threshold * smooth.std(), best, 0).astype(dtype)


ALL = {"labels_or_regions": [1, 2, 3]}
EACH = tuple({"labels_or_regions": label} for label in (1, 2, 3))


@pytest.mark.parametrize(
    "arguments",
    [
        [ALL],
        [EACH[1]],
        [ALL, *EACH],
        EACH[::-1],
        [{"labels_or_regions": (1, 2)}],
        [{"labels_or_regions": [(1, 2), 3]}, {"labels_or_regions": (2, 3)}, {"labels_or_regions": (1,)}],
        [{"labels_or_regions": 1, "background_label": 3}, {"labels_or_regions": 3}],
        [{"labels_or_regions": [0, 1], "background_label": 2}],
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_are_changed_as_stock_changes_them(stock, described, processed, arguments, dtype):
    steps = read_postprocessing(described(*arguments), SCHEME)
    assert len(steps) == len(arguments)
    changed = 0
    for seed in range(6):
        labels = blobs(seed, dtype=dtype, threshold=0.4 + seed / 2)
        function = stock.remove_all_but_largest_component_from_segmentation
        expected = stock.apply_postprocessing(labels, [function] * len(arguments), arguments)
        for slab_voxels in (1, 1500, 10**9):
            np.testing.assert_array_equal(processed(labels, steps, slab_voxels=slab_voxels), expected)
        changed += (expected != labels).any()
    assert changed


def test_pieces_of_equal_size_all_stay_as_stock_leaves_them(stock, processed):
    labels = np.zeros((9, 10, 11), np.uint8)
    labels[0:2, 2, 2] = labels[3:5, 6, 6] = labels[8, 9, 0:2] = 1
    labels[6, 6, 6] = 1
    expected = stock.remove_all_but_largest_component_from_segmentation(labels, 1)
    assert np.count_nonzero(expected) == 6
    np.testing.assert_array_equal(processed(labels, (KeepLargest(labels=(1,)),), slab_voxels=1), expected)


def test_a_region_and_a_list_of_labels_are_one_mask_for_stock(stock):
    """JSON writes both in the same way, so that they cannot be told apart when they are read."""
    for seed in range(4):
        labels = blobs(seed)
        keep = stock.remove_all_but_largest_component_from_segmentation
        np.testing.assert_array_equal(keep(labels, (1, 2)), keep(labels, [1, 2]))
        np.testing.assert_array_equal(keep(labels, [(1, 2), 3]), keep(labels, [1, 2, 3]))


def test_masks_without_the_labels_stay_as_they_are(processed):
    labels = blobs(1, values=(2, 3))
    np.testing.assert_array_equal(processed(labels, (KeepLargest(labels=(1,)),)), labels)
    np.testing.assert_array_equal(processed(labels, ()), labels)


def trained(folder, labels, truth_of, **others):
    """The ``postprocessing.json`` of a training whose validation gave some masks, as stock finds it."""
    import SimpleITK

    dataset = {"labels": labels, "file_ending": ".nii.gz", "channel_names": {"0": "density"}, **others}
    plans = {"image_reader_writer": "SimpleITKIO", "dataset_name": "D", "plans_name": "P", "configurations": {}}
    for name, content in (("dataset", dataset), ("plans", plans)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "truth").mkdir()
    masks = [blobs(seed) for seed in (1, 2)]
    for number, mask in enumerate(masks):
        for where, content in ((folder, mask), (folder / "truth", truth_of(mask))):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(content), str(where / f"{number}.nii.gz"))
    return masks


@pytest.mark.parametrize(
    ("labels", "others", "scheme"),
    [
        ({"background": 0, "membrane": 1, "ribosome": 2, "vesicle": 3}, {}, SCHEME),
        (
            {"background": 0, "cell": [1, 2, 3], "nucleus": [2, 3], "spot": 3},
            {"regions_class_order": [1, 2, 3]},
            parse_label_scheme(
                {
                    "labels": {"background": 0, "cell": [1, 2, 3], "nucleus": [2, 3], "spot": 3},
                    "regions_class_order": [1, 2, 3],
                }
            ),
        ),
    ],
    ids=["labels", "regions"],
)
def test_what_stock_finds_in_training_is_read_and_done_as_stock_does_it(
    stock, tmp_path, monkeypatch, processed, labels, others, scheme
):
    def truth(mask):  # of what stock tries, all help
        for given in ([1, 2, 3], *([(2, 3), 3] if others else [1, 2, 3])):
            mask = stock.remove_all_but_largest_component_from_segmentation(mask, given)
        return mask

    masks = trained(tmp_path, labels, truth, **others)
    context = multiprocessing.get_context
    monkeypatch.setattr(  # threads, since new processes would take a minute to import PyTorch
        multiprocessing,
        "get_context",
        lambda method=None: multiprocessing.dummy if method == "spawn" else context(method),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functions, arguments = stock.determine_postprocessing(
            str(tmp_path), str(tmp_path / "truth"), None, None, num_processes=1
        )
    steps = read_postprocessing(tmp_path, scheme)
    assert len(steps) == len(functions) > 1
    for mask in masks:
        np.testing.assert_array_equal(processed(mask, steps), stock.apply_postprocessing(mask, functions, arguments))


def test_training_that_found_nothing_gives_no_steps(described):
    assert read_postprocessing(described(), SCHEME) == ()


def test_labels_that_no_head_paints_are_left_out(described):
    steps = read_postprocessing(described({"labels_or_regions": [1, 2, 5]}, {"labels_or_regions": 5}), REGIONS)
    assert steps == (KeepLargest(labels=(1, 2)),)


@pytest.mark.parametrize(
    "arguments",
    [
        "labels_or_regions",
        {},
        {"labels_or_regions": []},
        {"labels_or_regions": [[]]},
        {"labels_or_regions": None},
        {"labels_or_regions": True},
        {"labels_or_regions": 1.0},
        {"labels_or_regions": "1"},
        {"labels_or_regions": [1, "2"]},
        {"labels_or_regions": [[1, [2]]]},
        {"labels_or_regions": {"1": 1}},
        {"labels_or_regions": 1, "background_label": None},
        {"labels_or_regions": 1, "background_label": False},
        {"labels_or_regions": 4},
        {"labels_or_regions": -1},
        {"labels_or_regions": [1, [2, 99999999999999999999]]},
        {"labels_or_regions": 1, "background_label": 4},
        {"labels_or_regions": 1, "background_label": -1},
    ],
    ids=str,
)
def test_steps_that_make_no_sense_for_the_model_are_refused(described, arguments):
    with pytest.raises(UnusableModel) as refused:
        read_postprocessing(described(arguments), SCHEME)
    assert refused.value.code == "model/unusable"
    if "speaks of label" in str(refused.value):
        assert refused.value.hint == "give the file that was written for this model"


@pytest.mark.parametrize(
    "others",
    [
        {"postprocessing_fns": None},
        {"postprocessing_kwargs": {}},
        {"postprocessing_fns": []},
        {"postprocessing_fns": [None]},
        {"postprocessing_fns": [[KEEP_LARGEST]]},
        {"postprocessing_fns": [KEEP_LARGEST] * 5, "postprocessing_kwargs": [ALL] * 5},
    ],
    ids=str,
)
def test_lists_that_do_not_fit_are_refused(described, others):
    with pytest.raises(UnusableModel):
        read_postprocessing(described(ALL, **others), SCHEME)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\x80\x04N.", b"[" * 100_000, b"\xff\xfe"], ids=lambda content: repr(content[:8])
)
def test_files_that_hold_no_object_are_refused(tmp_path, content):
    path = tmp_path / "postprocessing.json"
    path.write_bytes(content)
    with pytest.raises(UnusableModel, match=r"postprocessing\.json"):
        read_postprocessing(path, SCHEME)


def test_a_huge_file_is_not_read(described):
    path = described(ALL)
    os.truncate(path, 1 << 40)
    with pytest.raises(UnusableModel, match="MiB"):
        read_postprocessing(path, SCHEME)


@pytest.mark.parametrize("place", ["missing.json", ".", "pipe"])
def test_where_there_is_no_such_file_it_is_said_where_nnunet_leaves_it(tmp_path, place):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnusableModel) as refused:
        read_postprocessing(tmp_path / place, SCHEME)
    assert "crossval_results_folds" in refused.value.hint


def test_unknown_functions_and_arguments_are_named(described):
    path = described(ALL, postprocessing_fns=["fill_holes"])
    with pytest.raises(UnsupportedModel, match="fill_holes") as refused:
        read_postprocessing(path, SCHEME)
    assert refused.value.code == "model/unsupported"
    assert KEEP_LARGEST in refused.value.hint
    with pytest.raises(UnsupportedModel, match="connectivity"):
        read_postprocessing(described({**ALL, "connectivity": 1}), SCHEME)


def test_a_pickle_is_not_opened(described, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    described(ALL)
    path = tmp_path / "postprocessing.pkl"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UnsupportedModel, match="pickle") as refused:
        read_postprocessing(path, SCHEME)
    assert "postprocessing.json" in refused.value.hint
    assert not (tmp_path / "run").exists()
    assert read_postprocessing(tmp_path, SCHEME) == (KeepLargest(labels=(1, 2, 3)),)


def test_work_can_be_stopped_at_every_slab(processed):
    labels = blobs(3)
    steps = (KeepLargest(labels=(1,)), KeepLargest(labels=(2,)))
    calls = []
    processed(labels, steps, on_slab=lambda: calls.append(1), slab_voxels=24 * 25 * 4)
    assert len(calls) == 2 * 2 * 6

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processed(labels, steps, on_slab=stop)


@pytest.mark.parametrize("shape", [(64, 512, 512), (3, 2500, 2100)])
def test_memory_is_that_of_a_slab_and_as_much_as_is_told(tmp_path, shape):
    random = np.random.default_rng(0)
    whole = Region.of_shape(shape)
    steps = (KeepLargest(labels=(1, 2)), KeepLargest(labels=(2,)))
    with LabelFile(tmp_path / "labels.raw", shape, np.dtype(np.uint8), create=True) as file:
        for slab in whole.slabs(8):
            labels = random.integers(1, 3, slab.shape, np.uint8)
            file.write(slab, labels * (random.random(slab.shape, np.float32) < 0.0009))
        apply_postprocessing(file, (), on_slab=lambda: None)
        tracemalloc.start()
        try:
            apply_postprocessing(file, steps, on_slab=lambda: None)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    told = postprocessing_bytes(shape, np.dtype(np.uint8))
    assert told / 3 < peak < told
    assert told < 6 * whole.size  # numbers of four bytes for all voxels, their labels and a mask would take as much
