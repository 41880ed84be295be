"""Models of several channels: stock nnU-Net is the judge."""

from __future__ import annotations

import os
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

from cryomamba_backends.nnunet import open_zeros, statistics
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_core.errors import UnsupportedModel, UnusableModel, UnusableVolume
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")

#: What plans know of the grey values of two channels.
INTENSITIES = {
    "0": {"mean": 80.0, "std": 12.0, "percentile_00_5": 50.0, "percentile_99_5": 120.0},
    "1": {"mean": 70.0, "std": 20.0, "percentile_00_5": 40.0, "percentile_99_5": 110.0},
}


def named(*names):
    return lambda dataset: dataset.update(channel_names={str(number): name for number, name in enumerate(names)})


@pytest.fixture
def two_channels(edited_model):
    """tiny-tomo, whose first layer takes a second channel."""

    def make(name="two", *, schemes=("ZScoreNormalization",) * 2, masked=(False, False), axes=(0, 1, 2), size=10.0):
        def plans(content):
            chosen = content["configurations"]["3d_fullres"]
            chosen.update(normalization_schemes=list(schemes), use_mask_for_norm=list(masked))
            chosen.update(patch_size=[32, 32, 32], spacing=[size] * 3)
            content["foreground_intensity_properties_per_channel"] = INTENSITIES
            content["transpose_forward"] = list(axes)
            content["transpose_backward"] = [int(axis) for axis in np.argsort(axes)]

        def checkpoint(content):
            weights = content["network_weights"]
            for key, tensor in weights.items():
                if key.endswith("weight") and tensor.ndim == 5 and tensor.shape[1] == 1:
                    weights[key] = torch.cat([tensor, -0.4 * tensor.flip(2)], 1)

        return edited_model(name, plans=plans, checkpoint=checkpoint, dataset=named("raw", "denoised"))

    return make


@pytest.fixture
def pair(noise):
    """Two channels: zeros around them are not the same, nor are those within."""

    def make(shape=(36, 44, 40), *, border=((2, 1), (3, 0), (0, 4))):
        both = np.stack([noise(shape), 0.8 * noise(shape, seed=5)])
        both[0, :6] = 0
        both[1, :, :5] = 0
        both[:, 10:14, 12:17, 9:12] = 0
        both[:, :, 20:24, :9] = 0
        return np.pad(both, ((0, 0), *border)) if border else both

    return make


CASES = {
    "plain": {},
    "other schemes": {"schemes": ("CTNormalization", "RescaleTo01Normalization")},
    "each its own intensities": {"schemes": ("CTNormalization",) * 2, "axes": (1, 0, 2)},
    "masked": {"masked": (True, True)},
    "one masked": {"masked": (False, True), "axes": (2, 0, 1)},
    "resampled": {"size": 12.0},
    "resampled and masked": {"size": 9.0, "masked": (True, False)},
}


@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_labels_are_those_of_stock(case, mirroring, runner, two_channels, pair, answer_of, stock_labels, monkeypatch):
    monkeypatch.setattr(open_zeros, "SLAB_VOXELS", 9000)
    monkeypatch.setattr(statistics, "LEAF", 4096)
    folder = two_channels(**case)
    model = runner.install(folder, name="two")
    assert model.details["channels"] == "raw, denoised"
    array = pair()
    expected = stock_labels(folder, array, mirroring=mirroring, spacing=(10.0,) * 3)
    assert len(np.unique(expected)) > 1
    assert not np.array_equal(expected, stock_labels(folder, array[::-1], mirroring=mirroring, spacing=(10.0,) * 3))
    answer = answer_of(runner, model, array, mirroring=mirroring, voxel_size=(10.0,) * 3)
    np.testing.assert_array_equal(answer.labels, expected)


@pytest.mark.parametrize("masked", [(None, None), (None, False)])
def test_channels_that_are_not_said_to_be_masked_are_not(masked, runner, two_channels):
    plain = runner.install(two_channels("plain"), name="plain")
    assert runner.install(two_channels("unsaid", masked=masked), name="unsaid").digest == plain.digest


def test_fast_labels_are_those_of_stock_but_for_near_ties(runner, two_channels, pair, answer_of, stock_labels):
    folder = two_channels()
    array = pair((40, 60, 52), border=None)
    expected = stock_labels(folder, array, spacing=(10.0,) * 3)
    answer = answer_of(runner, runner.install(folder, name="two"), array, mode="fast", voxel_size=(10.0,) * 3)
    assert np.count_nonzero(answer.labels != expected) <= 1e-4 * expected.size  # the promise of fast mode


def test_a_run_goes_on_with_the_same_bytes(runner, two_channels, pair, answer_of):
    model = runner.install(two_channels(masked=(True, True)), name="two")
    array = pair((70, 40, 36))
    whole = answer_of(runner, model, array)
    rest = answer_of(runner, model, array, final_rows=33)
    np.testing.assert_array_equal(rest.labels[33:], whole.labels[33:])


def test_a_coarse_answer_has_all_channels(runner, two_channels, pair):
    model = runner.install(two_channels(), name="two")
    volume = ArrayVolume(pair())
    context = RecordingContext(model, volume)
    blocks = list(runner.segment(volume, NNUNetParams(coarse="on"), context))
    assert any(block.provisional and block.labels.any() for block in blocks)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_volume_of_other_channels_is_refused_before_it_is_read(channels, runner, two_channels, noise):
    model = runner.install(two_channels(), name="two")
    volume = ArrayVolume(np.stack([noise((20, 20, 20))] * channels))
    context = RecordingContext(model, volume)
    volume.reads.clear()
    with pytest.raises(UnusableVolume, match=rf"2 channels \(raw, denoised\), the volume has {channels}") as caught:
        list(runner.segment(volume, NNUNetParams(), context))
    assert "cryomamba join" in caught.value.hint
    assert not volume.reads


def test_a_volume_of_several_channels_is_refused_by_a_model_of_one(runner, tiny_tomo_model, pair):
    model = runner.install(tiny_tomo_model, name="one")
    volume = ArrayVolume(pair())
    with pytest.raises(UnusableVolume, match="takes 1 channel, the volume has 2"):
        list(runner.segment(volume, NNUNetParams(), RecordingContext(model, volume)))


@pytest.mark.parametrize("option", ["--plan", "--json"])
def test_the_command_refuses_a_file_of_other_channels_before_there_is_a_job(option, pair, tmp_path):
    mrcfile.write(tmp_path / "both.mrc", pair(), voxel_size=10.0)
    command = [sys.executable, "-m", "cryomamba_core", "segment", "both.mrc", "--model", "cryomamba-demo", option]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "CRYOMAMBA_DATA_DIR": "data"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3  # bad input
    assert "input/unusable-volume" in done.stdout + done.stderr
    assert not list((tmp_path / "data" / "jobs").glob("*"))


def test_a_plan_counts_the_channels(runner, two_channels, tiny_tomo_model, edited_model):
    def patch(content):
        content["configurations"]["3d_fullres"].update(patch_size=[32, 32, 32], spacing=[10.0] * 3)

    grid = VoxelGrid(shape=(64, 2048, 2048), voxel_size=(10.0,) * 3)
    one, two = (
        runner.plan(runner.install(folder, name=name), grid, NNUNetParams(mode="exact"), "cpu").ram_bytes
        for name, folder in (("one", edited_model("one", plans=patch)), ("two", two_channels()))
    )
    assert two - one >= 4 * 32 * 2048 * 2048  # voxels of another channel, as deep as a tile


@pytest.mark.parametrize(
    ("plans", "dataset", "error"),
    [
        ({"normalization_schemes": ["ZScoreNormalization"] * 2}, named("a"), UnusableModel),
        ({"normalization_schemes": ["ZScoreNormalization"]}, named("a", "b"), UnusableModel),
        ({"use_mask_for_norm": [True, False]}, named("a"), UnusableModel),
        ({"use_mask_for_norm": [1]}, named("a"), UnusableModel),
        ({"normalization_schemes": ["CTNormalization"] * 2}, named("a", "b"), UnusableModel),
        ({}, lambda dataset: dataset.update(channel_names={"1": "a"}), UnusableModel),
        ({"normalization_schemes": ["NoNormalization"] * 65}, named(*map(str, range(65))), UnsupportedModel),
    ],
)
def test_channels_that_do_not_fit_are_refused(plans, dataset, error, runner, edited_model):
    def change(content):
        content["configurations"]["3d_fullres"].update(plans)

    with pytest.raises(error):
        runner.install(edited_model(plans=change, dataset=dataset), name="x")
