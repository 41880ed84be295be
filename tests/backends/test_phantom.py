"""The synthetic tomogram is what it says it is."""

from __future__ import annotations

import subprocess
import sys

import attrs
import numpy as np
import pytest
from scipy import ndimage

from cryomamba_backends.demo.imaging import contrast_transfer, electron_wavelength, spatial_frequencies
from cryomamba_backends.demo.phantom import DEFAULT_SEED, LABEL_NAMES, Phantom, PhantomParameters, make_phantom

SMALL = PhantomParameters(
    shape=(64, 128, 112), seed=3, organelles=1, vesicles=3, microtubules=2, ribosomes=10, actin_filaments=2
)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(SMALL)


def test_the_same_seed_gives_the_same_voxels(phantom: Phantom) -> None:
    again = make_phantom(SMALL)
    np.testing.assert_array_equal(again.tomogram, phantom.tomogram)
    np.testing.assert_array_equal(again.truth, phantom.truth)


def test_another_seed_gives_another_volume(phantom: Phantom) -> None:
    other = make_phantom(attrs.evolve(SMALL, seed=4))
    assert not np.array_equal(other.truth, phantom.truth)
    assert abs(np.corrcoef(other.tomogram.ravel(), phantom.tomogram.ravel())[0, 1]) < 0.01


def test_tomogram_truth_and_signal_are_zyx_arrays_of_one_shape(phantom: Phantom) -> None:
    assert phantom.tomogram.shape == phantom.truth.shape == phantom.signal.shape == SMALL.shape
    assert phantom.tomogram.dtype == phantom.signal.dtype == np.float32
    assert phantom.truth.dtype == np.uint8
    assert np.isfinite(phantom.tomogram).all()


@pytest.mark.parametrize("seed", [DEFAULT_SEED, 8, 9])
def test_the_demonstration_volume_holds_every_label(seed: int) -> None:
    volume = make_phantom(PhantomParameters(seed=seed))
    shares = np.bincount(volume.truth.ravel(), minlength=len(LABEL_NAMES)) / volume.truth.size
    assert shares.size == len(LABEL_NAMES)
    assert (shares > 0.01).all()


def test_the_noise_is_more_than_ten_times_the_signal(phantom: Phantom) -> None:
    noise = phantom.tomogram - phantom.signal
    ratio = phantom.signal.var(dtype=np.float64) / noise.var(dtype=np.float64)
    assert 0.05 < ratio < 0.1
    assert phantom.signal_to_noise == pytest.approx(ratio)
    assert ratio == pytest.approx(SMALL.signal_to_noise, rel=0.05)


def test_nothing_lies_in_the_missing_wedge(phantom: Phantom) -> None:
    power = np.abs(np.fft.fftn(phantom.tomogram.astype(np.float64))) ** 2
    depth, _, width = SMALL.shape
    along_z = np.abs(np.fft.fftfreq(depth))[:, None]
    along_x = np.abs(np.fft.fftfreq(width))[None, :]
    tilt = np.degrees(np.arctan2(along_z, along_x))
    in_wedge = power.transpose(0, 2, 1)[tilt > SMALL.tilt_range + 0.01]
    in_range = power.transpose(0, 2, 1)[tilt < SMALL.tilt_range - 0.01]
    assert in_wedge.size > 0.25 * power.size
    assert in_wedge.mean() < 1e-9 * in_range.mean()


def test_a_wider_tilt_range_leaves_a_narrower_wedge(phantom: Phantom) -> None:
    complete = make_phantom(attrs.evolve(SMALL, tilt_range=90.0))
    spectrum = np.abs(np.fft.fftn(complete.tomogram.astype(np.float64)))
    assert spectrum[SMALL.shape[0] // 4, :, 0].mean() > 0.1 * spectrum[0, :, SMALL.shape[2] // 4].mean()


def test_the_membrane_label_is_six_nanometres_thick() -> None:
    vesicles = PhantomParameters(
        shape=(96, 128, 128), seed=5, organelles=1, vesicles=2, microtubules=0, ribosomes=0, actin_filaments=0
    )
    membrane = make_phantom(vesicles).truth == 1
    # the shell's volume over the area of its middle surface, both from distances to the outside of the label
    inside_out = ndimage.distance_transform_edt(membrane)
    ridge = inside_out[membrane & (inside_out == ndimage.maximum_filter(inside_out, 3))]
    thickness_nm = (2 * np.median(ridge) - 1) * vesicles.voxel_size / 10
    assert thickness_nm == pytest.approx(6.0, abs=1.0)


def test_a_microtubule_is_25_nanometres_across() -> None:
    tubes = PhantomParameters(
        shape=(80, 128, 128), seed=6, organelles=0, vesicles=0, microtubules=1, ribosomes=0, actin_filaments=0
    )
    tube = make_phantom(tubes).truth == 2
    # the largest ball that fits: its radius is the distance of the axis to the surface
    radius_nm = (ndimage.distance_transform_edt(np.pad(tube, 1)).max() - 0.5) * tubes.voxel_size / 10
    assert 2 * radius_nm == pytest.approx(25.0, abs=1.5)


def test_a_microtubule_has_a_hollow_lumen() -> None:
    tubes = PhantomParameters(
        shape=(80, 128, 128),
        seed=6,
        organelles=0,
        vesicles=0,
        microtubules=1,
        ribosomes=0,
        actin_filaments=0,
        protein_concentration=0.0,
        tilt_range=90.0,
    )
    alone = make_phantom(tubes)
    depth = ndimage.distance_transform_edt(np.pad(alone.truth == 2, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
    wall = alone.signal[(depth > 1) & (depth < 5)]
    lumen = alone.signal[depth > 8]
    assert wall.mean() < lumen.mean()


def test_inverting_the_contrast_turns_protein_bright_and_nothing_else(phantom: Phantom) -> None:
    bright = make_phantom(attrs.evolve(SMALL, contrast="bright"))
    np.testing.assert_allclose(bright.signal, -phantom.signal)
    np.testing.assert_array_equal(bright.truth, phantom.truth)


def test_protein_is_dark(phantom: Phantom) -> None:
    assert phantom.signal[phantom.truth == 1].mean() < phantom.signal[phantom.truth == 0].mean()


def test_the_wavelength_is_the_textbook_one() -> None:
    assert electron_wavelength(300) == pytest.approx(0.01969, abs=1e-5)
    assert electron_wavelength(200) == pytest.approx(0.02508, abs=1e-5)


def test_the_first_zero_of_the_contrast_transfer_lies_where_defocus_puts_it() -> None:
    frequencies = spatial_frequencies((8, 8, 4096), 5.0)
    curve = contrast_transfer(frequencies, defocus=40_000, amplitude_contrast=0.0)[0, 0]
    first_zero = frequencies[2][0, 0, 1:][np.diff(np.sign(curve[1:]), append=0) != 0][0]
    assert first_zero == pytest.approx(1 / np.sqrt(electron_wavelength(300) * 40_000), rel=0.01)
    assert curve[1:40].max() < 0


def test_importing_the_phantom_imports_neither_scipy_nor_torch() -> None:
    program = "import sys, cryomamba_backends.demo.phantom; print('scipy' in sys.modules, 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
