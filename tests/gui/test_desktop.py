"""The whole of it, as its user works it: a window, and a server in a process of its own."""

import engines
import mrcfile
import numpy as np
import pytest
import servers
import strangers
import trio
from desktops import Desktop

from cryomamba_backends.demo.phantom import PhantomParameters, make_phantom
from cryomamba_core.jobs import JobState
from cryomamba_core.plugins import PluginHost
from cryomamba_gui.qt.app import dock

SHAPE = (24, 96, 112)
VOXEL, ORIGIN = 8.0, (40.0, -80.0, 120.0)


@pytest.fixture(scope="session")
def phantom():
    """The demo's kind of tomogram, small."""
    return make_phantom(
        PhantomParameters(shape=SHAPE, seed=3, organelles=0, vesicles=1, microtubules=1, ribosomes=6, actin_filaments=0)
    ).tomogram


@pytest.fixture
def tomogram(tmp_path, phantom):
    path = tmp_path / "tomo.mrc"
    with mrcfile.new(path, data=phantom) as file:
        file.voxel_size = VOXEL
        file.header.origin = tuple(reversed(ORIGIN))
    return path


@pytest.fixture
def server(tmp_path):
    environment = {"PYTHONPATH": engines.install_strangers(tmp_path / "site")}
    with servers.ServerProcess(tmp_path / "server", environment=environment) as server:
        yield server


@pytest.fixture
def desktop(viewer, tmp_path, pump):
    viewer.window.resize(1500, 950)
    host = PluginHost.discover(engines.make_settings(tmp_path / "desktop"))
    desktop = Desktop(viewer, dock(viewer, host), pump)
    yield desktop
    desktop.panel.workplace.bridge.drain()


def test_from_a_tomogram_to_a_mask_taken_home(desktop, server, tomogram, phantom, tmp_path, pump):
    place = desktop.open(tomogram)
    np.testing.assert_allclose(place.stage.image.scale, [VOXEL] * 3)
    np.testing.assert_allclose(place.stage.image.translate, ORIGIN)
    assert "112 × 96 × 24" in desktop.text("tomogram.size")
    assert "8 Å" in desktop.text("tomogram.voxel-size")
    pump(lambda: place.tomogram.overview is not None and not place.works)

    desktop.connect(server.url, server.token())
    desktop.turn_to("Segment")
    desktop.choose("segment.model", "threshold")
    desktop.click("segment.plan")
    pump(lambda: "tile" in desktop.text("sending.plan"))
    desktop.click("sending.submit")
    pump(lambda: place.mask is not None and not place.works)
    threshold = place.mask.array.copy()
    expected = phantom >= phantom[threshold > 0].min()
    np.testing.assert_array_equal(threshold, expected)  # every voxel from some grey value on: Otsu's

    desktop.turn_to("Mask")
    table = desktop.find("mask.labels")
    assert table.item(0, 1).text() == f"{np.count_nonzero(threshold):,}"
    assert table.item(0, 2).text().replace(",", "").startswith(f"{np.count_nonzero(threshold) * 0.512:.0f}"[:3])
    desktop.click("mask.tool.paint")
    desktop.paint(place, (20, 20), (60, 80))
    edited = place.mask.array.copy()
    section = desktop.viewer.dims.current_step[0]
    assert np.count_nonzero(edited[section]) > np.count_nonzero(threshold[section])
    np.testing.assert_array_equal(np.delete(edited, section, 0), np.delete(threshold, section, 0))
    pump(lambda: table.item(0, 1).text() == f"{np.count_nonzero(edited):,}")

    desktop.click("mask.undo")
    np.testing.assert_array_equal(place.mask.array, threshold)
    desktop.click("mask.redo")
    np.testing.assert_array_equal(place.mask.array, edited)
    pump(lambda: desktop.find("mask.note").isEnabled())
    desktop.type("mask.note", "a stroke too many")
    desktop.click("mask.verdict.needs-work")
    pump(lambda: "kept" in desktop.text("mask.verdict-kept"))

    desktop.click("home.export")
    desktop.save_as(tmp_path / "home.mask.mrc")
    pump(lambda: "wrote" in desktop.text("home.done"))
    assert mrcfile.validate(tmp_path / "home.mask.mrc")
    with mrcfile.open(tmp_path / "home.mask.mrc") as file:
        np.testing.assert_array_equal(file.data, edited)
        assert [float(file.header.origin[axis]) for axis in "zyx"] == list(ORIGIN)
        assert [float(file.voxel_size[axis]) for axis in "zyx"] == [VOXEL] * 3
    assert "needs-work" in (tmp_path / "home.mask.review.json").read_text()
    assert not desktop.panel.workplace.desk.troubles.items


def test_previews_lie_on_the_tomogram_while_the_job_runs(desktop, server, tomogram, phantom, tmp_path, pump):
    gate = tmp_path / "gate"
    gate.mkdir()
    place = submit_steps(desktop, server, tomogram, gate, pump)
    engines.open_gate(gate, *range(10))
    pump(lambda: place.item is not None and place.stage.preview.visible)
    pump(lambda: len(place.stage.preview.data) == SHAPE[0] and np.any(place.stage.preview.data))
    shown = np.flatnonzero(np.any(place.stage.preview.data, axis=(1, 2))).max()  # sections that it has by now
    assert shown < 10
    assert "provisional" in place.stage.preview.name
    for index in np.ndindex(5, 5, 5):
        z, y, x = (2 * part for part in index)
        position = place.tomogram.grid.position((z, y, x))
        spot = np.round(place.stage.preview.world_to_data(position)).astype(int)
        assert bool(place.stage.preview.data[tuple(spot)]) == (z <= shown and phantom[z, y, x] > 0)
    engines.open_gate(gate, *range(SHAPE[0]))
    pump(lambda: place.mask is not None and not place.works)
    np.testing.assert_array_equal(place.mask.array, phantom > 0)
    assert place.stage.mask.visible
    assert not place.stage.preview.visible


def test_what_comes_with_the_labels_is_a_layer_beneath_them(desktop, server, tomogram, phantom, tmp_path, pump):
    gate = tmp_path / "gate"
    gate.mkdir()
    place = submit_steps(desktop, server, tomogram, gate, pump, "doubt=2")
    engines.open_gate(gate, *range(10))
    pump(lambda: place.stage.companions.layers)
    [layer] = place.stage.companions.layers
    assert layer.name == "tomo doubt"
    assert not layer.visible
    layer.visible = True  # a click on its eye
    pump(lambda: np.any(layer.data))
    engines.open_gate(gate, *range(SHAPE[0]))
    pump(lambda: place.mask is not None and not place.works)
    assert place.stage.companions.layers == (layer,)
    assert layer.visible
    [file] = place.companions.files
    assert layer.data is file.planes
    np.testing.assert_allclose(layer.scale, [2 * VOXEL] * 3)
    np.testing.assert_allclose(layer.translate, [start + VOXEL / 2 for start in ORIGIN])
    blocks = strangers.doubts(phantom).reshape(12, 2, 48, 2, 56, 2)
    section = np.floor(blocks[2:3].mean(axis=(1, 3, 5)) + 0.5)[0]
    place.stage.stepper.go_to(5)
    pump(lambda: np.array_equal(layer._slice.image.raw, section))
    layers = desktop.viewer.layers
    assert layers.index(place.stage.image) < layers.index(layer) < layers.index(place.stage.mask)
    assert not desktop.panel.workplace.desk.troubles.items


@pytest.fixture
def finished(desktop, server, tomogram, tmp_path, pump):
    """The place of a job that is done and has two companions, of which nobody has looked at one."""
    gate = tmp_path / "gate"
    gate.mkdir()
    engines.open_gate(gate, *range(SHAPE[0]))
    place = submit_steps(desktop, server, tomogram, gate, pump, "doubt=1", "sure=true")
    pump(lambda: place.mask is not None and not place.works)
    return place


@pytest.fixture
def hold(desktop, monkeypatch):
    """Hold what is fetched of companions back until the returned function is called; the names that were asked for."""
    fetch, asked, gates = desktop.jobs.fetch_companion, [], []

    async def held(item, name, on_progress=None):
        asked.append(name)
        gates.append(trio.Event())
        await gates[-1].wait()
        return await fetch(item, name, on_progress)

    def let_go():
        for gate in gates:
            gate.set()

    monkeypatch.setattr(desktop.jobs, "fetch_companion", held)
    return let_go, asked


def layer_of(place, name):
    [layer] = [layer for layer in place.stage.companions.layers if layer.name.endswith(f" {name}")]
    return layer


def shows(place, name, values, section=5):
    """Whether the layer of a companion shows a section of these values, and from the file."""
    layer, files = layer_of(place, name), [file for file in place.companions.files if file.companion.name == name]
    from_file = [layer.data] == [file.planes for file in files]
    return from_file and layer.visible and np.array_equal(layer._slice.image.raw, values[section])


def test_what_comes_with_the_labels_is_fetched_when_it_is_first_shown(desktop, finished, phantom, pump):
    place, folder = finished, finished.item.folder
    assert [layer.name for layer in place.stage.companions.layers] == ["tomo doubt", "tomo sure"]
    assert not any(layer.visible for layer in place.stage.companions.layers)
    assert not list(folder.glob("doubt.*"))
    place.stage.stepper.go_to(5)
    layer_of(place, "sure").visible = True  # a click on its eye
    [work] = place.works
    assert work.name == "fetching the sure of tomo.mrc"
    assert "the sure of tomo is being fetched" in desktop.viewer.canvas.overlays["cryomamba"].text
    pump(lambda: shows(place, "sure", strangers.certainties(phantom)))
    assert "fetched" not in desktop.viewer.canvas.overlays["cryomamba"].text
    assert [file.companion.label for file in place.companions.files] == [1]
    assert layer_of(place, "sure").colormap.name == place.mask.labels[0].color
    assert layer_of(place, "doubt").colormap.name == "inferno"
    assert (folder / "sure.mrc").exists()
    assert not list(folder.glob("doubt.*"))
    for wanted in (False, True):
        layer_of(place, "sure").visible = wanted
        assert not place.works, "it is here"


def test_what_cannot_be_fetched_is_hidden_again_and_a_second_try_works(desktop, server, finished, phantom, pump):
    place, troubles = finished, desktop.panel.workplace.desk.troubles
    place.stage.stepper.go_to(5)
    desktop.link.disconnect()
    layer_of(place, "doubt").visible = True
    pump(lambda: troubles.items and not place.works)
    assert troubles.items[-1].what == "fetching the doubt of tomo.mrc"
    assert not layer_of(place, "doubt").visible
    assert not place.companions.files
    assert "fetched" not in desktop.viewer.canvas.overlays["cryomamba"].text
    desktop.connect(server.url, server.token())
    layer_of(place, "doubt").visible = True
    pump(lambda: shows(place, "doubt", strangers.doubts(phantom)))
    assert len(troubles.items) == 1


def test_what_was_fetched_once_is_opened_without_a_server(desktop, server, finished, phantom, pump):
    layer_of(finished, "doubt").visible = True
    pump(lambda: finished.companions.files and not finished.works)
    path = finished.path
    desktop.bench.close(finished)
    pump(lambda: not finished.works)
    server.kill()
    pump(lambda: "does not answer" in desktop.text("connect.state"))
    place = desktop.open(path)
    pump(lambda: place.mask is not None and not place.works)
    assert not place.companions.files, "nobody has looked at it yet"
    place.stage.stepper.go_to(5)
    layer_of(place, "doubt").visible = True
    pump(lambda: shows(place, "doubt", strangers.doubts(phantom)))
    assert not desktop.panel.workplace.desk.troubles.items


def test_a_preview_that_is_looked_at_stays_until_the_file_is_there(desktop, server, tomogram, tmp_path, pump, hold):
    (let_go, asked), gate = hold, tmp_path / "gate"
    gate.mkdir()
    place = submit_steps(desktop, server, tomogram, gate, pump, "doubt=2", "sure=true")
    engines.open_gate(gate, *range(10))
    pump(lambda: place.stage.companions.layers)
    layer = layer_of(place, "doubt")
    layer.visible = True
    engines.open_gate(gate, *range(SHAPE[0]))
    pump(lambda: place.mask is not None and asked)
    assert asked == ["doubt"], "it is fetched at once, and the one that nobody looks at is not"
    kept = layer.data
    assert kept.any()
    assert layer.visible
    desktop.viewer.dims.ndisplay = 3
    assert layer.visible
    assert layer.data is kept
    desktop.viewer.dims.ndisplay = 2
    let_go()
    pump(lambda: place.companions.files)
    assert layer.data is place.companions.files[0].planes


def test_what_is_on_its_way_ends_with_its_layer_its_button_and_its_tomogram(desktop, finished, pump, hold):
    (let_go, asked), place = hold, finished
    layer_of(place, "doubt").visible = True
    pump(lambda: asked == ["doubt"])
    desktop.viewer.layers.remove(layer_of(place, "doubt"))
    pump(lambda: not place.works)
    assert [layer.name for layer in place.stage.companions.layers] == ["tomo sure"]
    desktop.bench.show(place.item)
    pump(lambda: len(place.stage.companions.layers) == 2)
    assert not layer_of(place, "doubt").visible

    layer_of(place, "doubt").visible = True
    pump(lambda: asked == ["doubt", "doubt"])
    desktop.turn_to("Mask")
    desktop.click("mask.progress.cancel")
    pump(lambda: not place.works)
    assert not layer_of(place, "doubt").visible

    layer_of(place, "doubt").name = "of mine"
    [layer] = [layer for layer in place.stage.companions.layers if layer.name == "of mine"]
    layer.visible = True
    pump(lambda: len(asked) == 3)
    desktop.bench.close(place)
    pump(lambda: not place.works)
    let_go()
    assert not place.companions.files
    assert not list(desktop.viewer.layers)
    assert not desktop.panel.workplace.desk.troubles.items


def test_a_layer_that_is_deleted_closes_its_file_and_can_be_had_again(desktop, finished, phantom, pump):
    place = finished
    layer_of(place, "sure").visible = True
    pump(lambda: place.companions.files and not place.works)
    [file] = place.companions.files
    desktop.viewer.layers.remove(layer_of(place, "sure"))
    assert place.companions.files == ()
    pump(lambda: file.planes._reader._closed)
    place.stage.stepper.go_to(5)
    desktop.bench.show(place.item)
    pump(lambda: len(place.stage.companions.layers) == 2)
    layer_of(place, "sure").visible = True
    pump(lambda: shows(place, "sure", strangers.certainties(phantom)))
    assert not desktop.panel.workplace.desk.troubles.items


def test_a_server_that_is_killed_and_comes_back_goes_on_in_the_window(desktop, server, tomogram, tmp_path, pump):
    gate = tmp_path / "gate"
    gate.mkdir()
    place = submit_steps(desktop, server, tomogram, gate, pump)
    engines.open_gate(gate, *range(6))
    pump(lambda: place.stage.preview.visible)
    desktop.turn_to("Jobs")
    server.kill()
    pump(lambda: "does not answer" in desktop.text("connect.state"))
    assert place.stage.preview.visible, "what is there is kept"
    server.restart()
    pump(lambda: desktop.link.connected)
    engines.open_gate(gate, *range(SHAPE[0]))
    pump(lambda: place.mask is not None and not place.works)
    assert [item.state for item in desktop.jobs.items] == [JobState.COMPLETED]


def submit_steps(desktop, server, tomogram, gate, pump, *params):
    """Submit a job of the runner that waits for its gate, and wait until it runs."""
    place = desktop.open(tomogram)
    desktop.connect(server.url, server.token())
    desktop.turn_to("Segment")
    desktop.choose("segment.model", "steps")
    desktop.type("form.free", "\n".join((f"gate={gate}", "depth=1", *params)))  # the desktop does not have this runner
    desktop.click("segment.submit")
    pump(lambda: place.item is not None and place.item.state.active)
    return place
