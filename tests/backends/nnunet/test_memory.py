"""Runs that memory does not hold: their sums go into a file, and the labels stay what they are."""

from __future__ import annotations

import gc
import hashlib
import itertools
import math
import re
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from attrs import evolve
from small_disks import small_disk_at
from unets import unet

from cryomamba_backends.nnunet import course, memory, placing, room
from cryomamba_backends.nnunet.accumulators import FileAccumulator, MemoryAccumulator
from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.installed import InstalledModel, read_installed
from cryomamba_backends.nnunet.memory import EXACT_KEEPS, FAST_KEEPS, Way, activation_bytes, ways_for
from cryomamba_backends.nnunet.network import build_network
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.placing import Placing, keep_for_layers
from cryomamba_backends.nnunet.preparing import prepared
from cryomamba_backends.nnunet.room import Room
from cryomamba_backends.nnunet.runner import BUNDLED, NNUNetRunner
from cryomamba_backends.nnunet.scores import SingleScores, StockScores
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_core.allocator import can_keep_freed, keep_freed, return_freed
from cryomamba_core.errors import OutOfMemory, StorageFull
from cryomamba_core.settings import Settings
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume
from cryomamba_core.volumes import IntensityStatistics

MIB = 1 << 20
INTENSITY = IntensityStatistics(minimum=1.0, maximum=2.0, mean=1.5, standard_deviation=0.3)
#: Two rows of 64 tiles of 64 voxels. Voxels take 64 MiB, sums 160 MiB in exact mode and 256 MiB in fast mode.
SHAPE = (80, 512, 512)
#: Of addresses: with what the allocator may have kept, less than voxels and sums, and more than voxels, a strip of an
#: eighth of the sums, and 30 MiB that are computed with.
ALLOWED = {"exact": 160 * MIB, "fast": 220 * MIB}
#: What the allocator keeps, and libraries compile: less than `memory.FAST_KEEPS` and `memory.LIBRARIES`.
MOST_KEPT = 65 * MIB


class FailingStub(torch.nn.Module):
    """A network without work, whose labels depend on the voxel, and that runs out of memory in some passes."""

    def __init__(self, heads: int, fails: Callable[[int], bool]) -> None:
        super().__init__()
        self.passes = 0
        self._heads, self._fails = heads, fails

    def forward(self, tile: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self._fails(self.passes):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.cat([(tile - head / 2).abs_().neg_() for head in range(self._heads)], 1)


class Run:
    """Runs of a model whose network is replaced; in a process of its own."""

    def __init__(self, mode: str, folder: Path) -> None:
        self._runner = NNUNetRunner(Settings(data_dir=folder / "data", threads=1))
        models = self._runner.models()
        self._model = next(model for model in models if model.name == (BUNDLED / "cryomamba-demo").name)
        section = np.linspace(1, 2, SHAPE[1] * SHAPE[2], dtype=np.float32).reshape(SHAPE[1:])
        self._volume = ArrayVolume(np.broadcast_to(section, SHAPE))
        self._params = NNUNetParams(mode=mode, step=1.0, mirroring=False, coarse="off", spacing="voxels")
        self.folder = folder

    def __call__(
        self, *, scratch: Path | None = None, fails: Callable[[int], bool] = lambda _: False
    ) -> tuple[str, list[str]]:
        """The digest of the labels, and the notes."""
        context = RecordingContext(self._model, self._volume, intensity=INTENSITY, scratch=scratch)
        stub = FailingStub(len(self._model.labels) + 1, fails)
        InstalledModel.network = lambda *_: stub  # type: ignore[method-assign]  # in this process alone
        digest = hashlib.sha256()
        for block in self._runner.segment(self._volume, self._params, context):
            digest.update(np.ascontiguousarray(block.labels).data)
        assert context.reports[-1][0] == context.reports[-1][1]
        return digest.hexdigest(), context.notes


@contextmanager
def limited(more: int) -> Iterator[None]:
    """Allow this process only so many more addresses, in bytes."""
    gc.collect()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run_without_memory(mode: str, folder: Path) -> dict[str, Any]:
    """What runs tell without a limit, within one, and with networks that fail; for a process of its own.

    The probe that says how much is left is asked but for the runs called ``unforeseen`` and ``once``.
    """
    course.AXIS_PRICE = (1.0, math.inf, math.inf)  # the short axis, else fast mode would need less along another
    run = Run(mode, folder)
    told: dict[str, Any] = {"undisturbed": run()}
    with limited(ALLOWED[mode]):
        told["refused"] = error_of(run)
        told["foreseen"] = run(scratch=folder)
        placing.host_room = lambda: Room(total=1 << 60, left=1 << 60)
        told["unforeseen"] = run(scratch=folder)
    told["once"] = run(scratch=folder, fails=lambda number: number == 70)
    gc.collect()
    files, resident = open_files(), psutil.Process().memory_info().rss
    error = error_of(partial(run, scratch=folder, fails=lambda number: number > 5))
    told["kept"] = psutil.Process().memory_info().rss - resident  # while somebody has the error
    told["failed"] = error
    told["new files"] = [path for path in open_files() if path not in files]
    return told


def error_of(run: Callable[[], object]) -> OutOfMemory | None:
    """What a run fails with, as it is told to others."""
    try:
        run()
    except OutOfMemory as error:
        return error
    return None


def open_files() -> list[str]:
    """What this process has open, but for the listing itself."""
    return sorted(str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere addresses are not limited, and files not listed")
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_run_in_too_little_memory_gives_the_same_labels_and_one_that_fails_gives_it_back(mode, tmp_path):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        told = alone.submit(run_without_memory, mode, tmp_path).result()
    labels, notes = told["undisturbed"]
    assert not any("sums" in note for note in notes)
    assert told["refused"] is not None, "there was memory enough"
    assert "MiB" in told["refused"].message
    assert "shorter axes" in told["refused"].hint
    assert {told[name][0] for name in ("foreseen", "unforeseen", "once")} == {labels}
    assert "sums lie in a file" in told["foreseen"][1][-1]
    assert "ran out before row 0" in told["unforeseen"][1][-1]
    assert "ran out before row 16" in told["once"][1][-1]
    assert told["failed"] is not None
    assert told["kept"] < MOST_KEPT
    assert told["new files"] == []
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_coarse_answer_that_memory_runs_out_for_ends_and_the_labels_are_the_same(tmp_path, monkeypatch):
    runner = NNUNetRunner(Settings(data_dir=tmp_path / "data", threads=1))
    model = next(model for model in runner.models() if model.name == (BUNDLED / "cryomamba-demo").name)
    volume = ArrayVolume(np.random.default_rng(0).random((64, 96, 96), np.float32))
    labels, contexts = [], []
    for fails in (False, True):
        stub = FailingStub(len(model.labels) + 1, lambda number, fails=fails: fails and number == 2)
        monkeypatch.setattr(InstalledModel, "network", lambda *_, stub=stub: stub)
        context = RecordingContext(model, volume, intensity=INTENSITY)
        params = NNUNetParams(mode="exact", mirroring=False, coarse="on", spacing="voxels")
        blocks = list(runner.segment(volume, params, context))
        labels.append(np.concatenate([block.labels for block in blocks if not block.provisional]))
        contexts.append((sum(block.provisional for block in blocks), context))
    np.testing.assert_array_equal(*labels)
    (whole, undisturbed), (part, short) = contexts
    assert 0 < part < whole
    assert not any("coarse answer" in note and "memory" in note for note in undisturbed.notes)
    assert any("memory ran out during the coarse answer" in note for note in short.notes)
    assert short.reports[-1][0] == short.reports[-1][1]


@pytest.mark.parametrize("kind", [StockScores, SingleScores])
def test_sums_in_a_file_are_those_in_memory_bit_by_bit(kind, tmp_path):
    grid = TileGrid.over((23, 13, 9), (8, 6, 12), 0.5)
    random = torch.Generator().manual_seed(0)
    kept, filed = (
        kind(folds=2, heads=3, grid=grid, hold=hold)
        for hold in (MemoryAccumulator, partial(FileAccumulator, folder=tmp_path))
    )
    starts = grid.starts[0]
    for start, stop in zip(starts, [*starts[1:], grid.padded[0]], strict=True):
        for sums in (kept, filed):
            sums.move_to(start)
        for corner in itertools.product(grid.starts[1], grid.starts[2]):
            for fold in range(2):
                prediction = torch.randn((3, *grid.patch), generator=random)
                for sums in (kept, filed):
                    sums.add(fold, corner, prediction)
        for row in range(start, stop):
            assert torch.equal(kept.mean(row, row + 1), filed.mean(row, row + 1))
    filed.close()


def test_a_disk_without_room_for_sums_is_full(tmp_path):
    with small_disk_at(tmp_path / "disk", 1) as folder:
        with pytest.raises(StorageFull) as full:
            FileAccumulator((4, 8, 256, 256), (64, 64), torch.half, folder)
        assert str(folder) in full.value.hint
        assert list(folder.iterdir()) == []
        FileAccumulator((1, 2, 256, 256), (64, 64), torch.half, folder).close()


#: A map of full size has 50 MiB.
PATCH, FEATURES = (64, 80, 80), [32, 64, 128]


def held_by(kind: str, mode: str, *, keeps: bool) -> tuple[int, int]:
    """Bytes that a network held at its peak, over two tiles, and that it was said to; for a process of its own."""
    network_recipe = unet(kind, FEATURES, [(1, 1, 1), (2, 2, 2), (2, 2, 2)])
    recipe = read_installed(BUNDLED / "cryomamba-demo").recipe()
    recipe = evolve(recipe, network=network_recipe, patch=PATCH)
    course = Course(mode=mode, device="cpu", precision="single", order=(0, 1, 2), axes=(0, 1, 2))
    torch.set_num_threads(1)
    network = build_network(network_recipe, channels=1, heads=recipe.labels.heads).to_empty(device="cpu")
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    network = prepared(network.requires_grad_(requires_grad=False), course, PATCH)
    return_freed()
    before = psutil.Process().memory_info().rss
    freed = keep_for_layers if course.exact else keep_freed
    with torch.inference_mode(), freed() if keeps else nullcontext():
        for _ in range(2):
            network(torch.ones((1, 1, *PATCH)))
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024  # ru_maxrss counts the parent's too
    return peak - before, activation_bytes(recipe, course, keeps=keeps)


@pytest.mark.skipif(not can_keep_freed(), reason="with this C library nothing is kept")
@pytest.mark.parametrize("keeps", [False, True], ids=["given back", "kept"])
@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"])
def test_what_networks_of_every_architecture_hold_is_foretold(kind, mode, keeps):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        held, told = alone.submit(held_by, kind, mode, keeps=keeps).result()
    told += EXACT_KEEPS if mode == "exact" else FAST_KEEPS
    # How maps lie in what was kept is chance: a network holds up to a fifth more or less from one run to the next.
    assert 0.8 * held < told < 1.5 * held


def test_where_nothing_can_be_kept_no_run_is_said_to(monkeypatch):
    monkeypatch.setattr(memory, "can_keep_freed", lambda: False)
    assert ways_for("cpu") == (Way("host"), Way("file"))


#: What PyTorch raises where a GPU is short of memory.
OF_DEVICE = torch.OutOfMemoryError("CUDA out of memory")


class Expensive:
    """Costs of a run on a GPU of 10 tiles; only what a `Placing` asks for."""

    sums = 8 * MIB
    hint = "use a smaller one"

    class course:  # noqa: N801  # stands for an attribute
        device = "cuda:0"
        batch = 4

    def ram(self, way: Way) -> int:
        return {"device": 1, "host": 9, "file": 2}[way.place] * MIB

    def vram(self, place: str, batch: int) -> int:
        return ((8 if place == "device" else 0) + 2 * batch) * MIB


@pytest.fixture
def has_room(monkeypatch):
    def make(*, ram: int, vram: int, disk: int = 100) -> None:
        monkeypatch.setattr(placing, "host_room", lambda: Room(total=100 * MIB, left=ram * MIB))
        monkeypatch.setattr(placing, "device_room", lambda _: vram * MIB)
        monkeypatch.setattr(placing, "disk_room", lambda _: disk * MIB)

    return make


@pytest.mark.parametrize(
    ("ram", "vram", "disk", "chosen"),
    [
        (50, 16, 100, ("device", 4)),
        (50, 15, 100, ("device", 2)),
        (50, 10, 100, ("device", 1)),
        (50, 9, 100, ("host", 4)),
        (50, 3, 100, ("host", 1)),
        (8, 9, 100, ("file", 4)),
        (8, 9, 7, ("host", 1)),
        (1, 1, 100, ("file", 1)),
    ],
)
def test_a_run_on_a_gpu_gives_up_batch_and_then_place(ram, vram, disk, chosen, has_room, tmp_path):
    has_room(ram=ram, vram=vram, disk=disk)
    context = RecordingContext(None, intensity=INTENSITY, scratch=tmp_path)  # type: ignore[arg-type]  # nobody asks
    found = Placing.chosen(Expensive(), context)  # type: ignore[arg-type]  # as far as it goes
    assert (found.way.place, found.batch) == chosen
    assert bool(context.notes) == (chosen != ("device", 4))


class OnTheCPU(Expensive):
    """Costs of a run on the CPU."""

    class course:  # noqa: N801  # stands for an attribute
        device = "cpu"
        batch = 1

    def ram(self, way: Way) -> int:
        return ({"host": 9, "file": 2}[way.place] + 4 * way.keeps) * MIB


@pytest.mark.parametrize(
    ("ram", "chosen", "told"),
    [
        (13, Way("host", keeps=True), None),
        (12, Way("host"), "given back at once, which takes time: otherwise the run would need about 13 MiB"),
        (8, Way("file"), "sums lie in a file in the job's folder: otherwise the run would need about 9 MiB"),
    ],
    ids=str,
)
def test_memory_is_kept_for_the_next_tile_where_there_is_room(ram, chosen, told, has_room, tmp_path):
    has_room(ram=ram, vram=0)
    context = RecordingContext(None, intensity=INTENSITY, scratch=tmp_path)  # type: ignore[arg-type]  # nobody asks
    found = Placing.chosen(OnTheCPU(), context)  # type: ignore[arg-type]  # as far as it goes
    assert found.way == chosen
    assert [told in note for note in context.notes] == [True] * (told is not None)


def test_a_run_on_the_cpu_gives_memory_back_before_its_sums_go_to_a_file(has_room, tmp_path):
    has_room(ram=50, vram=0)
    context = RecordingContext(None, intensity=INTENSITY, scratch=tmp_path)  # type: ignore[arg-type]  # nobody asks
    found = Placing.chosen(OnTheCPU(), context)  # type: ignore[arg-type]  # as far as it goes
    for way, told in ((Way("host"), "given back at once"), (Way("file"), "sums lie in a file")):
        found.step_down(5, MemoryError())
        assert found.way == way
        assert told in context.notes[-1]


def test_sums_go_from_device_to_host_to_file_and_then_nowhere(has_room, tmp_path):
    has_room(ram=50, vram=50)
    context = RecordingContext(None, intensity=INTENSITY, scratch=tmp_path)  # type: ignore[arg-type]  # nobody asks
    found = Placing.chosen(Expensive(), context)  # type: ignore[arg-type]  # as far as it goes
    found.step_down(5, OF_DEVICE)
    assert found.way.place == "host"
    found.step_down(7, MemoryError())
    assert found.way.place == "file"
    assert "row 7" in context.notes[-1]
    has_room(ram=1, vram=50)
    with pytest.raises(OutOfMemory, match="needs about 2 MiB of memory, of which 1 MiB are left") as caught:
        found.step_down(7, MemoryError())
    assert caught.value.hint == "free 1 MiB, use a smaller one"


@pytest.mark.parametrize(
    ("vram", "message"),
    [
        (1, "needs about 2 MiB of memory on cuda:0, of which 1 MiB are left"),
        (50, "memory on cuda:0 ran out, although the run needs about 2 MiB and 50 MiB seem to be left"),
    ],
)
def test_a_gpu_that_does_not_hold_a_tile_is_named_and_nothing_else_is_tried(vram, message, has_room, tmp_path):
    has_room(ram=50, vram=50, disk=7)  # the disk could not take the sums either
    context = RecordingContext(None, intensity=INTENSITY, scratch=tmp_path)  # type: ignore[arg-type]  # nobody asks
    found = Placing.chosen(Expensive(), context)  # type: ignore[arg-type]  # as far as it goes
    found.step_down(0, OF_DEVICE)
    has_room(ram=50, vram=vram, disk=7)
    with pytest.raises(OutOfMemory, match=message):
        found.step_down(0, OF_DEVICE)


def test_sums_stay_on_a_gpu_where_it_is_the_host_that_is_short_of_memory(has_room, tmp_path):
    has_room(ram=1, vram=50)
    context = RecordingContext(None, intensity=INTENSITY, scratch=tmp_path)  # type: ignore[arg-type]  # nobody asks
    found = Placing.chosen(Expensive(), context)  # type: ignore[arg-type]  # as far as it goes
    assert found.way.place == "device"
    with pytest.raises(OutOfMemory, match="memory ran out, although the run needs about 1 MiB"):
        found.step_down(0, MemoryError())


def test_sums_for_which_there_is_no_room_anywhere_say_what_they_need(has_room, tmp_path):
    has_room(ram=50, vram=1, disk=7)
    context = RecordingContext(None, intensity=INTENSITY, scratch=tmp_path)  # type: ignore[arg-type]  # nobody asks
    found = Placing.chosen(Expensive(), context)  # type: ignore[arg-type]  # as far as it goes
    with pytest.raises(StorageFull) as caught:
        found.step_down(0, MemoryError())
    assert "8 MiB" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "files"),
    [
        (
            "0::/slice/job",
            {"slice/job/memory.max": "max", "slice/memory.max": "900", "slice/memory.current": "500"},
        ),
        (
            "7:cpu,memory:/slice",
            {"memory/slice/memory.limit_in_bytes": "900", "memory/slice/memory.usage_in_bytes": "500"},
        ),
    ],
)
def test_limits_of_control_groups_and_of_those_above_count(line, files, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.write_text(f"3:pids:/elsewhere\n{line}\n")
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        statistics = path.parent / "memory.stat"
        statistics.write_text("anon 400\ninactive_file 100\ntotal_inactive_file 100\n")
    monkeypatch.setattr(room, "OWN_GROUPS", own)
    monkeypatch.setattr(room, "CONTROL_GROUPS", tmp_path / "groups")
    assert room.host_room() == Room(total=900, left=500)
