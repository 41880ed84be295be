"""What comes with the labels of a job, on the canvas: hidden at first, and over the tomogram to the voxel."""

import zlib

import mrcfile
import numpy as np
import pytest
from attrs import evolve
from staged import LABELS, make_mask, make_preview, noise

from cryomamba_backends.formats.mrc import plugin as mrc
from cryomamba_core.companions import Companion
from cryomamba_core.errors import InputError, UnsupportedFile
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import PreviewCompanion
from cryomamba_core.settings import Settings
from cryomamba_gui.canvas import companion_file
from cryomamba_gui.canvas.previewing import PreviewFeed, Voxels
from cryomamba_gui.canvas.turns import at_once

SHAPE = (13, 17, 19)
PLACE = {"voxel_size": (10, 8, 12.5), "origin": (-123.4, 56.7, 1000)}


def shown(stage):
    [layer] = stage.companions.layers
    return layer


def spread(shape, seed=3):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def means(fine, factor):
    """Means of cubes, those at the far faces of what is there, to the nearest whole number."""
    padded = np.full([-(-size // factor) * factor for size in fine.shape], np.nan)
    padded[tuple(map(slice, fine.shape))] = fine
    z, y, x = (size // factor for size in padded.shape)
    blocks = padded.reshape(z, factor, y, factor, x, factor)
    return np.floor(np.nanmean(blocks, axis=(1, 3, 5)) + 0.5).astype(np.uint8)


@pytest.fixture
def stage(stand):
    return stand(noise(SHAPE), **PLACE)


@pytest.fixture
def open_file(stage, tmp_path):
    """Open the companion that a file of mrcfile's holds."""
    opened, host = [], PluginHost(Settings(data_dir=tmp_path / "data"))
    assert not host.register(mrc, name="mrc").error

    def open_one(values, *, binning=1):
        path = tmp_path / "uncertainty.mrc"
        with mrcfile.new(path, values.astype(np.uint16), overwrite=True) as file:
            file.voxel_size = 1.0  # what its own header says of its place is not what it is laid by
        companion = Companion(name="uncertainty", meaning="", binning=binning)
        opened.append(companion_file.CompanionFile.open(host, path, companion, stage.tomogram.grid))
        return opened[-1]

    yield open_one
    for file in opened:
        file.close()


def show_file(stage, file):
    for _ in stage.companions.file_steps(file):
        pass


def preview_of(grid, values, factor):
    """A preview with a companion that is coarser than its labels."""
    payload = zlib.compress(means(values, factor).tobytes())
    companion = PreviewCompanion(name="uncertainty", factor=factor, grid=grid.coarsen(factor), payload=payload)
    return evolve(make_preview(np.ones(SHAPE, np.uint8), grid, 2), companions=(companion,))


def show_preview(stage, values, factor=4):
    preview = preview_of(stage.tomogram.grid, values, factor)
    stage.show_preview(preview, LABELS, Voxels.of(preview))


def differences(viewer, stage, expected, factor, pump):
    """How many of 40 fine voxels, looked up anywhere within each, have not the value of the voxel or bin over them."""
    layer, grid, random = shown(stage), stage.tomogram.grid, np.random.default_rng(7)
    wrong = 0
    indices = random.integers(0, SHAPE, (40, 3))
    for index in indices[indices[:, 0].argsort()]:
        viewer.dims.set_point(0, grid.position(index)[0])
        pump(lambda section=expected[index[0] // factor]: np.array_equal(layer._slice.image.raw, section))
        position = grid.position(index + np.array([0, *random.uniform(-0.49, 0.49, 2)]))
        wrong += layer.get_value(position, world=True) != expected[tuple(index // factor)]
    return wrong


def test_it_is_hidden_between_the_tomogram_and_the_labels_until_it_is_wanted(viewer, stage, open_file):
    viewer.layers.selection.active = stage.image
    show_preview(stage, spread(SHAPE))
    layer = shown(stage)
    assert [each.name for each in viewer.layers] == ["tomo", "tomo uncertainty", "tomo preview"]
    assert viewer.layers.selection.active is stage.image
    assert not layer.visible
    assert (tuple(layer.contrast_limits), layer.blending, layer.colormap.name) == ((0, 255), "additive", "inferno")
    layer.visible = True
    show_preview(stage, spread(SHAPE, 4), 3)
    file = open_file(spread(SHAPE))
    show_file(stage, file)
    assert shown(stage) is layer, "the file takes the place of the previews"
    assert layer.visible, "the user's wish holds"
    assert layer.data is file.planes
    stage.companions.drop()
    assert not stage.companions.layers
    assert layer not in viewer.layers


def test_several_are_hidden_above_each_other_and_each_keeps_its_place(viewer, stage, open_file):
    names = ["uncertainty", *(f"probability-{label}" for label in ("membrane", "microtubule", "ribosome", "gold-5-nm"))]
    one = preview_of(stage.tomogram.grid, spread(SHAPE), 4)
    values = [spread(SHAPE, seed) for seed in range(len(names))]
    companions = tuple(
        evolve(one.companions[0], name=name, payload=zlib.compress(means(fine, 4).tobytes()))
        for name, fine in zip(names, values, strict=True)
    )
    viewer.layers.selection.active = stage.image
    for _ in range(2):
        preview = evolve(one, companions=companions)
        stage.show_preview(preview, LABELS, Voxels.of(preview))
    file = open_file(values[0])
    show_file(stage, file)
    assert [each.name for each in viewer.layers] == ["tomo", *(f"tomo {name}" for name in names), "tomo preview"]
    assert viewer.layers.selection.active is stage.image
    assert not any(layer.visible for layer in stage.companions.layers)
    first, *others = stage.companions.layers
    assert first.data is file.planes
    for layer, fine in zip(others, values[1:], strict=True):
        np.testing.assert_array_equal(layer.data, means(fine, 4))
    stage.companions.drop()
    assert [each.name for each in viewer.layers] == ["tomo", "tomo preview"]


def test_a_preview_on_its_way_adds_nothing_once_the_tomogram_was_closed(viewer, stage):
    preview = preview_of(stage.tomogram.grid, spread(SHAPE), 4)
    steps = stage.companions.preview_steps(preview.companions, Voxels.of(preview).companions)
    next(steps)
    stage.remove()
    assert list(steps) == []
    assert len(viewer.layers) == 0


def labelled(stage, *labels):
    """Show a preview of companions that speak of these labels."""
    one = preview_of(stage.tomogram.grid, spread(SHAPE), 4)
    companions = tuple(evolve(one.companions[0], name=f"of-{label}".lower(), label=label) for label in labels)
    preview = evolve(one, companions=companions)
    stage.show_preview(preview, LABELS, Voxels.of(preview))
    return stage.companions.layers


def test_each_has_the_colour_of_its_label_and_what_speaks_of_all_has_another(stage):
    *of_labels, unknown, of_all = labelled(stage, 1, 2, 7, None)
    for layer, label in zip(of_labels, LABELS, strict=True):
        brightest = [int(label.color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        np.testing.assert_allclose(layer.colormap.map(1.0).ravel(), [*brightest, 1], atol=1e-6)
        np.testing.assert_array_equal(layer.colormap.map(0.0).ravel(), [0, 0, 0, 1])
        assert layer.blending == "additive"
    assert [layer.colormap.name for layer in (unknown, of_all)] == ["inferno"] * 2


def test_the_colours_that_the_user_has_chosen_stay(stage):
    one, two = labelled(stage, 1, 2)
    one.colormap, two.colormap = "viridis", "inferno"
    labelled(stage, 1, 2)
    companions = [Companion(name=f"of-{label}", meaning="", label=label) for label in (1, 2)]
    at_once(stage.companions.offer_steps(companions, LABELS))
    assert [layer.colormap.name for layer in stage.companions.layers] == ["viridis", "inferno"]
    assert stage.companions.layers == (one, two)


@pytest.mark.parametrize(("chosen", "later"), [("inferno", LABELS[0].color), ("viridis", "viridis")])
def test_a_colour_that_is_not_known_at_first_is_given_later_unless_the_user_has_chosen_one(stage, chosen, later):
    preview = preview_of(stage.tomogram.grid, spread(SHAPE), 4)
    preview = evolve(preview, companions=(evolve(preview.companions[0], label=1),))
    stage.show_preview(preview, (), Voxels.of(preview))
    assert shown(stage).colormap.name == "inferno"
    shown(stage).colormap = chosen
    at_once(stage.companions.offer_steps([Companion(name="uncertainty", meaning="", label=1)], LABELS))
    assert shown(stage).colormap.name == later


OFFERED = (Companion(name="uncertainty", meaning=""), Companion(name="probability-membrane", meaning="", label=1))


@pytest.mark.parametrize("ndisplay", [2, 3])
def test_what_is_offered_is_an_empty_layer_that_says_when_it_is_wanted(viewer, stage, open_file, pump, ndisplay):
    wanted = []
    stage.companions.wanted.connect(wanted.append)
    before = viewer.dims.range
    at_once(stage.companions.offer_steps(OFFERED, LABELS))
    first, second = stage.companions.layers
    assert not any(layer.visible for layer in stage.companions.layers)
    assert wanted == []
    viewer.dims.ndisplay = ndisplay
    second.visible = True
    assert second.visible
    assert wanted == ["probability-membrane"]
    assert viewer.dims.range == before
    for z in (0, SHAPE[0] - 1):
        viewer.dims.set_point(0, stage.tomogram.grid.position((z, 0, 0))[0])
        assert second.get_value(stage.tomogram.grid.position((z, 8, 9)), world=True) in (0, None)
    second.visible = False
    assert wanted == ["probability-membrane"]
    viewer.dims.ndisplay = 2
    file = open_file(spread(SHAPE))
    show_file(stage, file)
    assert first.data is file.planes
    assert not first.visible
    first.visible = True
    viewer.dims.set_point(0, stage.tomogram.grid.position((5, 0, 0))[0])
    pump(lambda: np.array_equal(first._slice.image.raw, spread(SHAPE)[5]))


def test_a_layer_that_is_renamed_stays_that_of_its_companion(stage, open_file):
    at_once(stage.companions.offer_steps(OFFERED, LABELS))
    first, _ = stage.companions.layers
    first.name = "of mine"
    file = open_file(spread(SHAPE))
    show_file(stage, file)
    assert first.data is file.planes
    assert len(stage.companions.layers) == 2


def test_a_layer_that_is_deleted_is_there_again_when_it_is_offered_again(viewer, stage, open_file):
    deleted, file = [], open_file(spread(SHAPE))
    stage.companions.deleted.connect(deleted.append)
    at_once(stage.companions.offer_steps(OFFERED, LABELS))
    show_file(stage, file)
    first, second = stage.companions.layers
    first.visible = True
    viewer.layers.remove(first)
    assert deleted == ["uncertainty"]
    assert stage.companions.layers == (second,)
    first.visible = False
    file.planes.arrived.emit(0, 0)
    at_once(stage.companions.offer_steps(OFFERED, LABELS))
    assert [layer.name for layer in viewer.layers if "tomo " in layer.name] == [
        "tomo probability-membrane",
        "tomo uncertainty",
    ]
    assert not stage.companions.wants("uncertainty")
    stage.companions.drop()
    assert deleted == ["uncertainty"], "nobody has deleted what was dropped"


def test_a_layer_that_is_deleted_between_two_steps_does_not_come_back(viewer, stage):
    preview = preview_of(stage.tomogram.grid, spread(SHAPE), 4)
    at_once(stage.companions.preview_steps(preview.companions, Voxels.of(preview).companions))
    steps = stage.companions.preview_steps(preview.companions, Voxels.of(preview).companions)
    next(steps)
    viewer.layers.remove(shown(stage))
    at_once(steps)
    assert stage.companions.layers == ()
    assert [layer.name for layer in viewer.layers] == ["tomo"]


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_a_preview_lies_on_the_tomogram(viewer, stage, pump, factor):
    values = spread(SHAPE)
    show_preview(stage, values, 4)  # in whose place the next one comes
    show_preview(stage, values, factor)
    shown(stage).visible = True
    assert differences(viewer, stage, means(values, factor), factor, pump) == 0


@pytest.mark.parametrize("binning", [1, 2, 3])
def test_a_file_lies_on_the_tomogram_as_the_mask_does(viewer, stage, open_file, pump, tmp_path, binning):
    before = viewer.dims.range
    binned = means(spread(SHAPE), binning)
    show_file(stage, open_file(binned, binning=binning))
    shown(stage).visible = True
    assert differences(viewer, stage, binned, binning, pump) == 0
    assert viewer.dims.range == before
    with make_mask(tmp_path / "mask", np.ones(SHAPE, np.uint8), stage.tomogram.grid) as mask:
        stage.show_mask(mask)
        np.testing.assert_allclose(shown(stage).scale, binning * np.array(stage.mask.scale))
        np.testing.assert_allclose(shown(stage).extent.world, stage.mask.extent.world)
        if binning == 1:
            np.testing.assert_allclose(shown(stage).translate, stage.mask.translate)
        stage.drop_mask()


def test_what_is_hidden_is_not_read(viewer, stage, open_file, pump):
    file = open_file(spread(SHAPE))
    show_file(stage, file)
    viewer.dims.set_point(0, stage.tomogram.grid.position((7, 0, 0))[0])
    assert not file.planes.pending
    assert file.planes.bytes_read == 0
    shown(stage).visible = True
    pump(lambda: file.planes.bytes_read and not file.planes.pending)


async def test_in_3d_it_is_shown_once_it_was_made_ready_and_only_if_it_is_wanted(
    viewer, stage, open_file, settle, nursery, monkeypatch
):
    monkeypatch.setattr(companion_file, "coarse_factor", lambda shape: 2)
    monkeypatch.setattr(companion_file, "SLAB_VOXELS", 4 * SHAPE[1] * SHAPE[2])
    values = spread(SHAPE)
    file = open_file(values)
    nursery.start_soon(stage.attend)
    show_file(stage, file)
    layer = shown(stage)
    viewer.dims.ndisplay = 3
    assert not layer.visible
    assert layer.data is file.planes, "nobody wants to see it"
    layer.visible = True
    assert not layer.visible, "a click on its eye uploads no file"
    await settle(lambda: layer.visible)
    np.testing.assert_array_equal(layer.data, means(values, 2))
    np.testing.assert_allclose(layer.scale, (20, 16, 25))
    assert "uncertainty" not in viewer.canvas.overlays["cryomamba"].text
    viewer.dims.ndisplay = 2
    assert layer.data is file.planes
    np.testing.assert_allclose(layer.scale, (10, 8, 12.5))
    viewer.dims.ndisplay = 3
    assert layer.visible, "it is ready"
    stage.remove()


async def test_what_cannot_be_read_for_3d_is_said_and_the_window_goes_on(
    viewer, stage, open_file, settle, nursery, monkeypatch
):
    file, heard = open_file(np.full(SHAPE, 300)), []
    stage.failed.connect(heard.append)
    nursery.start_soon(stage.attend)
    viewer.dims.ndisplay = 3
    show_file(stage, file)
    shown(stage).visible = True
    await settle(lambda: heard)
    assert isinstance(heard[0], UnsupportedFile)
    assert "holds 300" in str(heard[0])
    assert not shown(stage).visible
    stage.remove()


def test_a_file_of_other_numbers_is_said_in_2d_too(stage, open_file, pump):
    file, heard = open_file(np.full(SHAPE, 300)), []
    file.planes.failed.connect(heard.append)
    show_file(stage, file)
    shown(stage).visible = True
    pump(lambda: heard)
    assert heard[0].code == UnsupportedFile.code


@pytest.mark.parametrize(("shape", "binning"), [((13, 17, 18), 1), (SHAPE, 2), ((6, 8, 9), 2)])
def test_a_file_that_does_not_lie_on_the_tomogram_is_refused(open_file, shape, binning):
    with pytest.raises(InputError, match=r"the uncertainty has .* and should have"):
        open_file(np.zeros(shape), binning=binning)


async def test_the_feed_decodes_companions_beside_the_labels(nursery, stage, settle):
    shown_voxels, values = [], spread(SHAPE)
    feed = PreviewFeed(lambda _preview, _labels, voxels: [shown_voxels.append(voxels)])
    nursery.start_soon(feed.run)
    feed.offer(preview_of(stage.tomogram.grid, values, 3), LABELS)
    await settle(lambda: shown_voxels)
    [companion] = shown_voxels[0].companions
    np.testing.assert_array_equal(companion, means(values, 3))
