"""Stock nnU-Net is the judge of the fast mode too: its labels, but for near ties.

Stock adds up in half precision. Where few and small weights add up, at the edges of a volume, products of weights and
scores come close to 6e-8, the smallest number that it has, and stock's labels are those of rounding: fast mode is not
judged by them. Such voxels are few in a tomogram, but not in the small volumes of these tests.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from attrs import asdict, evolve

from cryomamba_backends.demo.phantom import PhantomParameters, make_phantom
from cryomamba_backends.nnunet import coarse, course, fixed_point, preparing, winograd
from cryomamba_backends.nnunet import runner as runner_module
from cryomamba_backends.nnunet.accumulators import MemoryAccumulator
from cryomamba_backends.nnunet.course import Course, choose_course
from cryomamba_backends.nnunet.forward import Forward, Work, add_mirrored
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.runner import BUNDLED
from cryomamba_backends.nnunet.scores import SingleScores, StockScores
from cryomamba_backends.nnunet.tiles import TileGrid, tile_profile, tile_weights
from cryomamba_core.errors import InvalidParameter, PluginUnavailable
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.testing.contexts import RecordingContext
from cryomamba_core.testing.volumes import ArrayVolume

torch = pytest.importorskip("torch")

#: The share of judged voxels that may differ, and the Dice that every label must reach.
DIFFERENT, DICE = 1e-4, 0.999

#: Weight of tiles, 10 in the middle of one, from which on 6e-8 is less than a hundred-thousandth of a score.
JUDGED_FROM = 1e-2


@pytest.fixture
def small(runner, edited_model):
    """A model with tiles of 32 voxels: its trained folder, and how it is called after installation."""

    def install(name="small", **changes):
        def small_tiles(plans):
            plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]

        folder = edited_model(name, plans=small_tiles, **changes)
        return folder, runner.install(folder, name=name)

    return install


def assert_agreement(found, expected, *, patch, box=None, different=DIFFERENT):
    """Labels as stock's wherever it had digits enough, and alike as a whole for every label."""
    inside = box or tuple(slice(None) for _ in range(3))
    grid = TileGrid.over(found[inside].shape, patch, 0.5)
    weights, tile = np.zeros(grid.padded, np.float32), tile_weights(patch).float().numpy()
    for corner in itertools.product(*grid.starts):
        weights[tuple(slice(at, at + edge) for at, edge in zip(corner, patch, strict=True))] += tile
    judged = np.zeros(found.shape, bool)
    picked = tuple(slice(gap, gap + size) for gap, size in zip(grid.before, grid.extent, strict=True))
    judged[inside] = weights[picked] >= JUDGED_FROM
    assert np.mean((found != expected)[judged]) <= different
    for label in np.unique(expected):
        ours, theirs = (found == label) & judged, (expected == label) & judged
        both, either = np.count_nonzero(ours & theirs), np.count_nonzero(ours) + np.count_nonzero(theirs)
        assert either - 2 * both <= max(5, (1 - DICE) * either), f"label {label}"  # a few voxels are no disagreement


@pytest.mark.parametrize("shape", [(70, 64, 72), (40, 101, 64)], ids=["Z", "Y"])
def test_labels_are_those_of_stock(shape, runner, tiny_tomo_model, answer_of, stock_labels, vesicles):
    model = runner.install(tiny_tomo_model, name="tiny")
    array = vesicles(shape)
    expected = stock_labels(tiny_tomo_model, array, mirroring=False)
    assert len(np.unique(expected)) == 3
    answer = answer_of(runner, model, array, mirroring=False, mode="fast", precision="single")
    assert_agreement(answer.labels, expected, patch=(64, 64, 64))


def test_labels_are_those_of_stock_with_mirroring_at_the_precision_of_the_machine(
    runner, tiny_tomo_model, answer_of, stock_labels, vesicles
):
    model = runner.install(tiny_tomo_model, name="tiny")
    array = vesicles((64, 100, 64))
    expected = stock_labels(tiny_tomo_model, array)
    answer = answer_of(runner, model, array, mode="fast")
    assert_agreement(answer.labels, expected, patch=(64, 64, 64))


@pytest.mark.parametrize("mirroring", [True, False], ids=["mirrored", "plain"])
@pytest.mark.parametrize(
    "precision",
    [
        "single",
        pytest.param(
            "fixed",
            marks=pytest.mark.skipif(
                not fixed_point.bytes_convolve(), reason="PyTorch convolves bytes inexactly on this CPU"
            ),
        ),
    ],
)
def test_labels_are_those_of_stock_where_all_of_a_network_computes_otherwise(
    precision, mirroring, runner, answer_of, stock_labels, as_trained_folder, monkeypatch
):
    """In fixed point, or with half the products, which layers as small as the demonstration's do not gain by.

    A quarter of its tomogram are borders and noise, where labels are nearly equal.
    """
    monkeypatch.setattr(fixed_point, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "LEAST_PRODUCTS", 1)
    halved, made = [], winograd.winograd
    monkeypatch.setattr(winograd, "winograd", lambda plain: halved.append(plain) or made(plain))
    array = make_phantom(PhantomParameters(seed=1)).tomogram[:64, :96, :64].astype(np.float32)
    expected = stock_labels(as_trained_folder(BUNDLED / "cryomamba-demo"), array, mirroring=mirroring)
    model = runner.model("cryomamba-demo")
    answer = answer_of(runner, model, array, mode="fast", precision=precision, mirroring=mirroring)
    assert len(halved) >= 10 * (precision == "single")  # two a stage but the strided ones
    assert_agreement(answer.labels, expected, patch=(64, 64, 64))


def test_zeros_around_the_volume_change_nothing(small, runner, answer_of, stock_labels, vesicles):
    folder, model = small()
    array = np.pad(vesicles((40, 52, 37)), ((3, 4), (2, 1), (5, 2)))
    expected = stock_labels(folder, array)
    answer = answer_of(runner, model, array, mode="fast", precision="single")
    box = (slice(3, -4), slice(2, -1), slice(5, -2))
    assert_agreement(answer.labels, expected, patch=(32, 32, 32), box=box)
    outside = np.ones(array.shape, bool)
    outside[box] = False
    assert not answer.labels[outside].any()


def test_folds_are_averaged_as_stock_does(small, runner, answer_of, stock_labels, vesicles):
    folder, model = small(folds={"0": 0, "1": 7})
    array = vesicles((40, 48, 36))
    expected = stock_labels(folder, array, folds=(0, 1), mirroring=False)
    answer = answer_of(runner, model, array, mirroring=False, mode="fast", precision="single")
    assert_agreement(answer.labels, expected, patch=(32, 32, 32))


def test_regions_are_painted_as_stock_does(small, runner, answer_of, stock_labels, vesicles):
    def regions(dataset):
        dataset["labels"] = {"background": 0, "all": [1, 2, 3], "inner": [2, 3], "core": 3}
        dataset["regions_class_order"] = [1, 2, 3]

    folder, model = small(dataset=regions)
    array = vesicles((40, 48, 36))
    expected = stock_labels(folder, array, mirroring=False)
    answer = answer_of(runner, model, array, mirroring=False, mode="fast", precision="single")
    assert_agreement(answer.labels, expected, patch=(32, 32, 32))


@pytest.mark.parametrize("shape", [(84, 33, 40), (40, 84, 33)], ids=["Z", "Y"])
def test_a_resumed_run_gives_the_same_bytes_from_any_row(shape, small, runner, answer_of, vesicles):
    _, model = small()
    axis = shape.index(84)
    array = vesicles(shape)
    whole = answer_of(runner, model, array, mirroring=False, mode="fast")
    assert [block.start[axis] for block in whole.blocks] == sorted(block.start[axis] for block in whole.blocks)
    assert f"along {'ZYX'[axis]}" in whole.context.notes[0]
    for row in (1, 17, 50, 83):
        resumed = answer_of(runner, model, array, mirroring=False, mode="fast", final_rows=row)
        np.testing.assert_array_equal(
            np.moveaxis(resumed.labels, axis, 0)[row:], np.moveaxis(whole.labels, axis, 0)[row:]
        )
        assert all(block.start[axis] >= row for block in resumed.blocks)
    assert len(resumed.context.reports) < len(whole.context.reports) / 2


def course_of(params, shape, runner, model):
    return choose_course(runner._find(model).recipe(), shape, params, "cpu")


def test_the_sweep_goes_along_the_axis_that_saves_memory(small, runner):
    _, model = small()
    for shape, axis in [((512, 512, 512), 0), ((512, 540, 512), 0), ((256, 1024, 1024), 1), ((64, 64, 1024), 0)]:
        chosen = course_of(NNUNetParams(), shape, runner, model)
        assert chosen.axes[0] == axis
        assert course_of(NNUNetParams(mode="exact"), shape, runner, model).axes[0] == 0
        grid = VoxelGrid(shape=shape, voxel_size=(10, 10, 10))
        assert runner.sweep_axis(model, grid, NNUNetParams(), "cpu") == axis
        assert chosen.told in runner.plan(model, grid, NNUNetParams(spacing="voxels"), "cpu").notes


@pytest.fixture
def cpu_flags(tmp_path, monkeypatch):
    """Make the CPU one with these instructions."""

    def pretend(flags):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n" if flags else "")
        monkeypatch.setattr(course, "CPU_FLAGS", tmp_path / ("cpuinfo" if flags else "none"))
        course._cpu_flags.cache_clear()

    yield pretend
    monkeypatch.undo()
    course._cpu_flags.cache_clear()


def test_networks_run_in_fixed_point_where_the_cpu_multiplies_bytes(small, runner, cpu_flags):
    _, model = small()
    for flags, precision in [("fpu amx_int8 sse", "fixed"), ("fpu avx512_bf16", "single"), ("", "single")]:
        cpu_flags(flags)
        assert course_of(NNUNetParams(), (64, 64, 64), runner, model).precision == precision
        assert course_of(NNUNetParams(precision="single"), (64, 64, 64), runner, model).precision == "single"
        assert course_of(NNUNetParams(mode="exact"), (64, 64, 64), runner, model).precision == "single"


def test_a_job_keeps_the_precision_of_its_first_machine_or_is_refused(small, runner, cpu_flags, monkeypatch, vesicles):
    _, model = small()
    cpu_flags("amx_int8 amx_bf16")
    settled = runner.settle(model, NNUNetParams(), "cpu")
    assert settled.precision == "fixed"
    coarser = runner.settle(model, NNUNetParams(precision="bfloat16"), "cpu")
    assert runner.settle(model, NNUNetParams(mode="exact"), "cpu") == NNUNetParams(mode="exact")
    cpu_flags("sse")
    assert runner.settle(model, NNUNetParams(), "cpu").precision == "single"
    assert course_of(settled, (64, 64, 64), runner, model).precision == "fixed"
    for refused in (coarser, NNUNetParams(precision="float16")):
        with pytest.raises(InvalidParameter, match="this machine"):
            course_of(refused, (64, 64, 64), runner, model)
    monkeypatch.setattr(preparing, "bytes_convolve", lambda: False)
    with pytest.raises(PluginUnavailable, match="bytes"):
        blocks_of(runner, model, vesicles((32, 32, 32)), **asdict(evolve(settled, mirroring=False)))


def test_a_pytorch_that_does_not_convolve_bytes_gets_single_precision(small, runner, cpu_flags, monkeypatch, vesicles):
    _, model = small()
    cpu_flags("amx_int8 amx_bf16")
    for module in (runner_module, preparing):
        monkeypatch.setattr(module, "bytes_convolve", lambda: False)
    assert runner.settle(model, NNUNetParams(), "cpu").precision == "single"
    assert runner.settle(model, NNUNetParams(precision="fixed"), "cpu").precision == "fixed"
    _, context = blocks_of(runner, model, vesicles((32, 32, 32)))
    assert "single precision" in context.notes[0]


def test_devices_that_are_not_there_are_refused_with_a_hint(small, runner, monkeypatch):
    _, model = small()
    grid = VoxelGrid(shape=(64, 64, 64), voxel_size=(1, 1, 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("mps", "cuda:1", "cuda:x"):
        with pytest.raises(PluginUnavailable) as refused:
            runner.plan(model, grid, NNUNetParams(), device)
        assert "cpu" in refused.value.hint
    plan = runner.plan(model, grid, NNUNetParams(), "cuda:0")
    assert plan.vram_bytes > 0
    assert "half precision on cuda:0" in plan.notes[0]
    with pytest.raises(InvalidParameter, match="exact"):
        runner.plan(model, grid, NNUNetParams(mode="exact"), "cuda:0")


SINGLE_ON_CPU = Course(mode="fast", device="cpu", precision="single", order=(1, 0, 2), axes=(1, 0, 2))


class Marking(torch.nn.Module):
    """Its scores say where a voxel lies in a tile, and how many tiles it was asked for at once."""

    def __init__(self, holds=1):
        super().__init__()
        self.holds = holds
        self.asked = []

    def forward(self, tiles):
        self.asked.append(len(tiles))
        if len(tiles) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tiles.repeat(1, 2, 1, 1, 1) + 1


def make_forward(network, **changes):
    context = RecordingContext(None, intensity=object())
    work = Work(context=context, total=100)
    given = {"networks": [network], "mirror_axes": (), "course": SINGLE_ON_CPU, "work": work, **changes}
    return Forward(**given), context


def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does():
    network = Marking(holds=1)
    run, context = make_forward(network, batch=4)
    tiles = [torch.rand(1, 4, 5, 6) for _ in range(4)]
    scores = {index: found for index, _, found in run.scores(tiles)}
    assert network.asked == [4, 2, 1, 1, 1, 1]
    assert run.batch == 1
    assert context.reports[-1] == (4, 100, "tiles")
    for index, tile in enumerate(tiles):
        torch.testing.assert_close(scores[index], tile.repeat(2, 1, 1, 1) + 1)


def test_memory_that_does_not_hold_one_tile_is_out():
    run, _ = make_forward(Marking(holds=0), batch=2)
    with pytest.raises(torch.OutOfMemoryError):
        list(run.scores([torch.rand(1, 4, 5, 6)] * 2))


def test_tiles_of_one_value_run_once_and_count_all_the_same():
    network = Marking(holds=2)
    run, context = make_forward(network, batch=2, mirror_axes=((0,),))
    black, grey = torch.zeros(1, 4, 5, 6), torch.full((1, 4, 5, 6), 7.0)
    found = [scores for tiles in ([black, black], [grey, black], [grey, grey]) for _, _, scores in run.scores(tiles)]
    assert len(network.asked) == 2 * 4  # both images; two levels, of which only the last is remembered
    assert context.reports[-1] == (12, 100, "tiles")
    assert [scores.unique().tolist() for scores in found] == [[1], [1], [8], [1], [8], [8]]


def test_sums_in_single_precision_are_the_weighted_means():
    grid = TileGrid.over((11, 13, 9), (8, 6, 12), 0.5)
    random = torch.Generator().manual_seed(0)
    exact, fast = (
        StockScores(folds=2, heads=3, grid=grid, hold=MemoryAccumulator),
        SingleScores(folds=2, heads=3, grid=grid, hold=MemoryAccumulator),
    )
    numerator = torch.zeros((3, *grid.padded), dtype=torch.float64)
    total = torch.zeros(grid.padded, dtype=torch.float64)
    z, y, x = (torch.from_numpy(tile_profile(edge)) for edge in grid.patch)
    weights = 10 * z[:, None, None] * y[:, None] * x
    found = {exact: [], fast: []}
    for step, start in enumerate(grid.starts[0]):
        for sums in found:
            sums.move_to(start)
        for corner in itertools.product(grid.starts[1], grid.starts[2]):
            tile = tuple(slice(at, at + edge) for at, edge in zip((start, *corner), grid.patch, strict=True))
            for fold in range(2):
                prediction = torch.randn((3, *grid.patch), generator=random)
                numerator[(slice(None), *tile)] += prediction.double() * weights / 2
                for sums in found:
                    sums.add(fold, corner, prediction)
            total[tile] += weights
        end = [*grid.starts[0][1:], grid.padded[0]][step]
        for sums, pieces in found.items():
            pieces.append(sums.mean(start, end).clone())
    expected = numerator / total
    # Tolerances: half precision has 11 bits and single 24, of which the sums of up to 16 numbers lose some.
    torch.testing.assert_close(torch.cat(found[fast], 1).double(), expected, rtol=1e-5, atol=1e-6)
    judged = total >= JUDGED_FROM
    torch.testing.assert_close(
        torch.cat(found[exact], 1).double()[:, judged], expected[:, judged], rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("dims", [[2], [3, 4], [2, 3, 4]])
@pytest.mark.parametrize("depth", [1, 19])
def test_scores_of_a_mirrored_tile_are_those_of_one_flip(dims, depth):
    random = torch.Generator().manual_seed(0)
    total, image = torch.randn((2, 2, 3, depth, 5, 6), generator=random)
    expected = total + torch.flip(image, dims)
    add_mirrored(total, image, dims)
    assert torch.equal(total, expected)


def blocks_of(runner, model, array, **params):
    volume = ArrayVolume(array, voxel_size=model.voxel_size or (1.0, 1.0, 1.0))
    context = RecordingContext(model, volume, **params.pop("context", {}))
    return list(runner.segment(volume, NNUNetParams(**{"mirroring": False, **params}), context)), context


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_coarse_answer_for_the_whole_volume_comes_first_and_lies_on_it(mode, small, runner, vesicles):
    _, model = small()
    array = np.pad(vesicles((40, 70, 36)), ((2, 1), (3, 0), (0, 4)))
    blocks, context = blocks_of(runner, model, array, mode=mode, coarse="on", precision="single")
    kinds = [block.provisional for block in blocks if block.labels.any()]
    assert kinds == sorted(kinds, reverse=True)
    coarse_labels, final = np.zeros(array.shape, np.uint8), np.zeros(array.shape, np.uint8)
    seen = np.zeros(array.shape, bool)
    for block in blocks:
        (coarse_labels if block.provisional else final)[block.region.slices] = block.labels
        seen[block.region.slices] |= block.provisional
    assert np.array_equal(seen, array != 0)
    shifts = itertools.product((-1, 0, 1), repeat=3)
    scores = {shift: dice_of(np.roll(coarse_labels, shift, (0, 1, 2)) > 0, final > 0) for shift in shifts}
    assert max(scores, key=scores.get) == (0, 0, 0)
    assert scores[0, 0, 0] > 0.8
    done = [report[0] for report in context.reports]
    assert done == list(range(1, context.reports[0][1] + 1))


def dice_of(ours, theirs):
    return 2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs))


ONE_ROW = (32, 96, 64), 0, "exact"


@pytest.mark.parametrize(
    ("shape", "swept", "mode"),
    [((96, 32, 64), 0, "fast"), ((32, 96, 64), 1, "fast"), ONE_ROW],
    ids=["along Z", "along Y", "one row of tiles"],
)
@pytest.mark.parametrize("axis", range(3), ids="zyx")
def test_a_coarse_answer_begins_with_the_section_that_is_asked_for(axis, shape, swept, mode, small, runner, vesicles):
    _, model = small()
    array = np.pad(vesicles(shape), ((5, 0), (0, 3), (0, 0)))
    first = (5, 0, 0)[axis] + shape[axis] // 2  # of several tiles, not those that the sweep begins with
    plain, asked = (
        blocks_of(runner, model, array, mode=mode, coarse="on", precision="single", **given)[0]
        for given in ({}, {"coarse_first": f"{'zyx'[axis]}={first}"})
    )
    final = [[block for block in blocks if not block.provisional and block.labels.any()] for blocks in (plain, asked)]
    assert final[0]
    for one, other in zip(*final, strict=True):
        assert one.region == other.region
        np.testing.assert_array_equal(one.labels, other.labels)
    assert runner.sweep_axis(model, ArrayVolume(array).grid, NNUNetParams(mode=mode), "cpu") == swept
    before, after = ({b.region: b.labels for b in blocks if b.provisional} for blocks in (plain, asked))
    assert before.keys() == after.keys()
    assert all(np.array_equal(labels, after[region]) for region, labels in before.items())
    distances = [abs((r.start[axis] + r.stop[axis]) / 2 - first - 0.5) for r in after]
    through = [distance < 16 for distance in distances]
    assert through == sorted(through, reverse=True)
    if axis == swept:
        assert distances == sorted(distances)


def test_a_coarse_answer_begins_at_the_end_where_the_section_is_beyond_it(small, runner, vesicles):
    _, model = small()
    blocks, _ = blocks_of(runner, model, vesicles((96, 32, 32)), coarse="on", coarse_first="z=999999999")
    assert [block.region.start[0] for block in blocks if block.provisional] == [64, 32, 0]


def test_a_tomogram_as_thin_as_a_tile_is_not_read_twice_for_a_section(small, runner, vesicles):
    _, model = small()

    class Counting(ArrayVolume):
        read_voxels = 0

        def read(self, region):
            self.read_voxels += np.prod(region.shape)
            return super().read(region)

    def voxels_read(**given):
        volume = Counting(vesicles((32, 96, 64)))
        params = NNUNetParams(mirroring=False, coarse="on", precision="single", **given)
        assert list(runner.segment(volume, params, RecordingContext(model, volume)))
        return volume.read_voxels

    assert voxels_read(coarse_first="z=9") == voxels_read() < voxels_read(coarse_first="x=9")


def test_a_coarse_answer_is_left_out_where_nobody_needs_it(small, runner, vesicles, monkeypatch):
    _, model = small()
    array = vesicles((70, 40, 36))

    def has_coarse(**given):
        return any(block.provisional for block in blocks_of(runner, model, array, **given)[0])

    assert not has_coarse()  # it takes a second
    monkeypatch.setattr(coarse, "SHORT", 0)
    monkeypatch.setattr(coarse, "SHARE_FAST", 1)
    assert has_coarse()
    assert not has_coarse(coarse="off")
    assert not has_coarse(coarse="on", context={"previewed": False})
    assert has_coarse(context={"final_rows": 5})
    assert not has_coarse(context={"final_rows": 50})
    monkeypatch.setattr(coarse, "SHARE_FAST", 0.01)
    assert not has_coarse()


def test_no_network_is_loaded_for_a_coarse_answer_that_would_cost_much(small, runner, vesicles, monkeypatch, caplog):
    _, model = small()
    monkeypatch.setattr(coarse, "SHARE_FAST", 0.01)
    monkeypatch.setattr(coarse, "SHORT", 0)
    with caplog.at_level("INFO", "cryomamba_backends.nnunet.installed"):
        blocks_of(runner, model, vesicles((70, 40, 36)))
    assert [record.message.startswith("the weights") for record in caplog.records] == [True]


def test_a_coarse_answer_is_weighed_with_tiles_of_unequal_edges_that_are_swept_along_another_axis(
    runner, edited_model, vesicles, monkeypatch
):
    def flat_tiles(plans):
        configuration = plans["configurations"]["3d_fullres"]
        configuration["patch_size"] = [12, 32, 32]
        strides = configuration["architecture"]["arch_kwargs"]["strides"]
        strides[-1] = [1, 2, 2]

    def flat_kernel(checkpoint):
        weights, name = checkpoint["network_weights"], "decoder.transpconvs.0.weight"
        weights[name] = weights[name][:, :, :1].clone()

    model = runner.install(edited_model("flat", plans=flat_tiles, checkpoint=flat_kernel), name="flat")
    monkeypatch.setattr(coarse, "SHORT", 0)
    monkeypatch.setattr(coarse, "SHARE_FAST", 1)
    blocks, context = blocks_of(runner, model, vesicles((12, 160, 40)), precision="single")
    assert "along Y" in context.notes[0]
    assert blocks[0].provisional
