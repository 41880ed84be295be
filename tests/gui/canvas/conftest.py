"""A tomogram on a stage."""

import pytest
import staged


@pytest.fixture
def stand(viewer, tmp_path):
    """Makes a stage of an array; all of them are taken away at the end."""
    from cryomamba_gui.canvas.stage import Stage  # napari warns at its import, and here that is ignored

    stages = []

    def make(array, **options):
        tomogram = staged.open_tomogram(tmp_path, array, **options)
        stages.append(Stage(viewer, tomogram))
        stages[-1].appear()
        return stages[-1]

    yield make
    for stage in stages:
        stage.remove()
        stage.tomogram.close()
