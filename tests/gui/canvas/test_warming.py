"""Before the first tomogram."""

import gc

import numpy as np
import pytest
from qtpy.QtCore import QCoreApplication
from staged import LABELS, make_mask, make_preview, noise
from vispy.gloo.glir import GlirShader

from cryomamba_gui.canvas.previewing import Voxels
from cryomamba_gui.canvas.warming import warm_up


@pytest.fixture
def programs(monkeypatch):
    """The texts of the programs that were given to the driver, in order."""
    texts, give = [], GlirShader.set_data

    def noted(self, offset, code):
        texts.append(code)
        give(self, offset, code)

    monkeypatch.setattr(GlirShader, "set_data", noted)
    return texts


@pytest.fixture
def thawed():
    """What is frozen in a test is garbage like any other after it."""
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_a_stage_needs_no_program_that_was_not_warm(viewer, stand, programs, tmp_path):
    """Or the driver would compile it while the user waits: its text tells, and depends on how a layer was filled."""
    viewer.show()
    warm_up(viewer)
    warm = set(programs)
    assert any("texture2D_values" in text for text in warm), "labels are drawn"
    programs.clear()
    stage = stand(noise((12, 20, 16)))
    QCoreApplication.processEvents()
    for factor in (4, 2):
        labels = make_preview(np.ones((12, 20, 16), np.uint8), stage.tomogram.grid, factor)
        stage.show_preview(labels, LABELS, Voxels.of(labels))
        QCoreApplication.processEvents()
    stage.show_mask(make_mask(tmp_path / "mask", np.ones((12, 20, 16), np.uint8), stage.tomogram.grid))
    QCoreApplication.processEvents()
    assert programs
    assert set(programs) <= warm


@pytest.mark.usefixtures("thawed")
def test_what_is_there_is_not_searched_for_garbage_again(viewer):
    before = gc.get_freeze_count()
    warm_up(viewer)
    assert gc.get_freeze_count() > before + 10_000


@pytest.mark.usefixtures("thawed")
def test_a_warm_viewer_is_as_empty_as_before(viewer):
    warm_up(viewer)
    assert not viewer.layers
    assert viewer.dims.ndisplay == 2


def test_a_viewer_with_layers_is_left_alone(viewer):
    layer = viewer.add_image(np.zeros((4, 4)))
    changes = []
    viewer.layers.events.inserted.connect(changes.append)
    warm_up(viewer)
    assert list(viewer.layers) == [layer]
    assert not changes
