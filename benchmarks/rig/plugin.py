"""A runner that takes its time and an exporter that writes as much as it is told, for servers that are measured."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from attrs import field, frozen

from cryomamba_core.artifacts import RunInfo
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter, ModelRunner, RunContext
from cryomamba_core.label_file import LabelArray
from cryomamba_core.labels import LabelBlock, name_labels
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_core.volumes import Volume

cryomamba_api_version = 1

MIB = 1 << 20


@frozen(kw_only=True)
class PacedParams:
    """What the runner does before each block, and what becomes of it."""

    depth: int = field(default=2, metadata={"help": "sections of a block"})
    gate: str = field(default="", metadata={"help": "file that the runner waits for before it begins"})
    pause: float = field(default=0.0, metadata={"help": "seconds before each block, up to half more or less"})
    work: float = field(default=0.0, metadata={"help": "seconds of processor time for each block"})
    stamps: str = field(default="", metadata={"help": "file to which the time of each block is written"})
    ballast: int = field(default=0, metadata={"help": "MiB of the artifact ballast.bin"})


class PacedRunner(ModelRunner):
    """Labels bright voxels, block by block, in its own time."""

    name = "paced"
    params_type = PacedParams

    def models(self) -> Sequence[ModelInfo]:
        return (ModelInfo(name="paced", runner=self.name, labels=name_labels({1: "bright"})),)

    def plan(self, model: ModelInfo, grid: VoxelGrid, params: PacedParams, device: str) -> RunPlan:
        return RunPlan(tiles=grid.shape[0], ram_bytes=grid.voxels)

    def segment(self, volume: Volume, params: PacedParams, context: RunContext) -> Iterator[LabelBlock]:
        chance = random.Random(0)
        while params.gate and not Path(params.gate).exists():
            context.checkpoint()
            time.sleep(0.01)
        with Path(params.stamps or os.devnull).open("w", buffering=1) as stamps:
            for region in volume.grid.whole.slabs(params.depth):
                time.sleep(params.pause * chance.uniform(0.5, 1.5))
                _work(params.work)
                block = LabelBlock(region=region, labels=(volume.read(region) > 0).astype(np.uint8))
                print(time.time(), file=stamps)
                yield block


def _work(seconds: float) -> None:
    """Keep a processor busy."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class BallastExporter(Exporter):
    """Writes random bytes; what it writes has no meaning."""

    name = "ballast"
    artifact = "ballast.bin"
    suffix = ".bin"
    media_type = "application/octet-stream"

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        piece = os.urandom(MIB)
        with path.open("wb") as stream:
            for _ in range(int(info.params["ballast"])):
                stream.write(piece)
        return ()


@hookimpl
def cryomamba_register_runners(register: Callable[[ModelRunner], None]) -> None:
    register(PacedRunner())


@hookimpl
def cryomamba_register_exporters(register: Callable[[Exporter], None]) -> None:
    register(BallastExporter())
