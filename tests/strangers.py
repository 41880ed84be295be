"""A stranger's plugins: a reader, a runner and an exporter that use nothing but the core.

`StepRunner` labels voxels above zero in steps that a test can hold at any point: before each slab it
waits for a file named after the slab, if it was given a folder to look for one. If it is asked to doubt, it says
of each voxel how close to zero it is; if it is to be sure, how far above zero.
"""

import time
from pathlib import Path

import numpy as np
from attrs import field, frozen

from cryomamba_core.companions import Companion
from cryomamba_core.errors import TruncatedFile
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter, ModelRunner, VolumeReader
from cryomamba_core.labels import LabelBlock, name_labels
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_core.testing.volumes import ArrayVolume

cryomamba_api_version = 1


class NpyReader(VolumeReader):
    name = "npy"
    suffixes = (".npy",)

    def can_read(self, path, first_bytes):
        return first_bytes.startswith(b"\x93NUMPY")

    def validate(self, first_bytes, size):
        if size < 128:
            raise TruncatedFile("an npy file has a header of 128 bytes", hint="write it again")

    def open(self, path, *, voxel_size=None):
        array = np.load(path)
        return ArrayVolume(array, grid=VoxelGrid(shape=array.shape, voxel_size=voxel_size or (10.0, 10.0, 10.0)))


class NpyExporter(Exporter):
    name = "npy"
    artifact = "mask.npy"
    suffix = ".npy"
    media_type = "application/octet-stream"
    writes_companions = True

    def write(self, labels, grid, info, path):
        with path.open("wb") as stream:
            np.save(stream, labels[:])
        return ("written by a stranger",)

    def write_companion(self, values, grid, companion, info, path):
        return self.write(values, grid, info, path)


@frozen(kw_only=True)
class StepParams:
    gate: str = field(default="", metadata={"help": "folder whose files open the way to each slab"})
    depth: int = field(default=1, metadata={"help": "sections of a slab"})
    fault: str = field(default="", metadata={"help": "what goes wrong in the second slab"})
    resumes: bool = field(default=True, metadata={"help": "whether final sections are left out"})
    axis: int = field(default=0, metadata={"help": "along which slabs follow each other"})
    doubt: int = field(default=0, metadata={"help": "binning of the doubts that come with the labels; 0 for none"})
    sure: bool = field(default=False, metadata={"help": "whether it says how sure it is of its label"})


def doubts(values):
    """0 for what is far from zero, 255 for zero."""
    return (255 / (1 + np.abs(values))).astype(np.uint8)


def certainties(values):
    """0 for what is not above zero, 255 for what is far above."""
    return (255 - 255 / (1 + np.maximum(values, 0))).astype(np.uint8)


class StepRunner(ModelRunner):
    name = "steps"
    params_type = StepParams

    def models(self):
        return [ModelInfo(name="steps", runner="steps", labels=name_labels({1: "positive"}))]

    def plan(self, model, grid, params, device):
        return RunPlan(tiles=grid.shape[0], ram_bytes=grid.voxels)

    def segment(self, volume, params, context):
        wanted = context.rows(volume.grid.shape[params.axis])
        first = context.final_rows if params.resumes else wanted.start
        for row in range(first, wanted.stop, params.depth):
            slab = self._slab(volume.grid, params, row, wanted.stop)
            self._wait(row, params, context)
            values = volume.read(slab)
            labels, beside = (values > 0).astype(np.uint8), {"doubt": doubts(values)} if params.doubt else {}
            beside |= {"sure": certainties(values)} if params.sure else {}
            if row >= first + params.depth:
                labels, slab = self._fault(params.fault, labels, slab, volume.grid)
                beside = {} if params.fault == "no doubt" else beside
            yield LabelBlock(region=slab, labels=labels, companions=beside)

    def sweep_axis(self, model, grid, params, device):
        return params.axis

    def companions(self, model, params):
        doubt = Companion(name="doubt", meaning="255 for zero", binning=max(1, params.doubt))
        sure = Companion(name="sure", meaning="255 for far above zero", label=1)
        return (*([doubt] if params.doubt else []), *([sure] if params.sure else []))

    def shard_bounds(self, model, grid, params, device, count):
        count = min(count, grid.shape[params.axis])
        return tuple(grid.shape[params.axis] * piece // count for piece in range(count + 1))

    def _slab(self, grid, params, row, end):
        start, stop = [0, 0, 0], list(grid.shape)
        start[params.axis], stop[params.axis] = row, min(row + params.depth, end)
        return grid.region(start, stop)

    def _wait(self, section, params, context):
        while params.gate and not (Path(params.gate) / str(section)).exists():
            context.checkpoint()
            time.sleep(0.01)

    def _fault(self, fault, labels, slab, grid):
        if fault == "raises":
            raise ArithmeticError("the stranger cannot go on")
        if fault == "label":
            labels = labels + 7
        if fault == "overlap":
            slab = slab.shifted((-1, 0, 0))
        if fault == "outside":
            slab = slab.shifted((grid.shape[0], 0, 0))
        return labels, slab


@hookimpl
def cryomamba_register_readers(register):
    register(NpyReader())


@hookimpl
def cryomamba_register_runners(register):
    register(StepRunner())


@hookimpl
def cryomamba_register_exporters(register):
    register(NpyExporter())
