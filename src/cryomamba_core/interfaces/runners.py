"""Model runners: volume → labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from cryomamba_core.companions import Companion
from cryomamba_core.errors import ShardsUnavailable, UnknownModel, UnsupportedModel
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import LabelBlock
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_core.volumes import IntensityStatistics, Volume

T = TypeVar("T")


class JobCanceled(BaseException):
    """Raised by `RunContext.checkpoint` when the job is to stop.

    Like `KeyboardInterrupt` it is no `Exception`, so that a runner's own error handling, or that of
    a library below it, cannot take it for a failure and go on.
    """


class RunContext(ABC):
    """What the framework offers a runner while it works.

    Parameters
    ----------
    model
        The model to run.
    device
        Where to run, e.g. ``cpu`` or ``cuda:0``.
    intensity
        Grey values of the volume, known to be finite and not all equal.
    final_rows
        How many rows along the runner's `ModelRunner.sweep_axis` are final from an earlier attempt;
        blocks below it may be left out.
    previewed
        Whether anybody will see previews.
    shard
        The rows along `ModelRunner.sweep_axis`, first and behind the last, that alone are asked for; None
        for all of the volume's. `final_rows` is then not below the first of them.
    scratch
        A folder for files without a name that hold what memory does not; None if there is none.
    lasting
        A folder for files that another attempt at the same work goes on from; None if there is none.
    source
        SHA-256 (hex) of the file that the volume is read from; empty if there is none.
    """

    def __init__(
        self,
        *,
        model: ModelInfo,
        device: str,
        intensity: IntensityStatistics,
        final_rows: int,
        previewed: bool = True,
        shard: tuple[int, int] | None = None,
        scratch: Path | None = None,
        lasting: Path | None = None,
        source: str = "",
    ) -> None:
        self._model = model
        self._device = device
        self._intensity = intensity
        self._final_rows = final_rows
        self._previewed = previewed
        self._shard = shard
        self._scratch = scratch
        self._lasting = lasting
        self._source = source

    @property
    def model(self) -> ModelInfo:
        """The model to run."""
        return self._model

    @property
    def device(self) -> str:
        """Where to run."""
        return self._device

    @property
    def intensity(self) -> IntensityStatistics:
        """Grey values of the volume."""
        return self._intensity

    @property
    def final_rows(self) -> int:
        """How many rows along the runner's `ModelRunner.sweep_axis` are final already."""
        return self._final_rows

    @property
    def previewed(self) -> bool:
        """Whether anybody will see previews; provisional blocks are work for nothing otherwise."""
        return self._previewed

    @property
    def scratch(self) -> Path | None:
        """A folder, on the disk of the job's own, for files that hold what memory does not; None if there is none.

        Give them no name, as `tempfile.TemporaryFile` does: then they are gone with the process.
        """
        return self._scratch

    @property
    def lasting(self) -> Path | None:
        """A folder for files that another attempt at the same work goes on from; None if there is none.

        It is there, and empty before the first attempt. The framework removes it when the labels are exported, and
        wherever a job begins anew. Nothing but a runner looks at what is in it: whether it is whole, and whether it was
        made of the same `source` with the same parameters, is for the runner to know.
        """
        return self._lasting

    @property
    def source(self) -> str:
        """SHA-256 (hex) of the file that the volume is read from; empty if there is none."""
        return self._source

    def rows(self, extent: int) -> range:
        """Rows along the runner's `ModelRunner.sweep_axis`, of `extent` in all, that are asked for.

        Only a runner that has `ModelRunner.shard_bounds` is asked for less than all.
        """
        return range(extent) if self._shard is None else range(*self._shard)

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What takes long to load, such as a network: from an earlier job of the same process, or else made now.

        A worker may be given a further job of its model on its device if its runner has kept something; one whose
        runner never calls this ends with its job. A runner that does leaves nothing else behind that changes
        what the next job gives. Call it from the thread that runs `ModelRunner.segment`.

        Parameters
        ----------
        key
            All that decides what `make` returns, and the state of the files that it reads: a model may be
            replaced between two jobs.
        make
            Loads it.

        Returns
        -------
        kept
            It belongs to all jobs: whoever runs it leaves it as it was.
        """
        return make()

    @abstractmethod
    def checkpoint(self) -> None:
        """Call often, at least once a second or a tile; raises `JobCanceled` when the job is to stop."""

    @abstractmethod
    def report(self, done: int, total: int, unit: str) -> None:
        """Say how far the work is, finer than by blocks, e.g. ``report(12, 245, "tiles")``."""

    @abstractmethod
    def note(self, sentence: str) -> None:
        """Write a decision that the user should know of into the manifest."""


class ModelRunner(ABC):
    """Runs models of one kind.

    `segment` is a plain generator: previews, progress, cancelling, statistics, export and provenance
    are made by the framework from the blocks that it yields.
    """

    #: Unique name, e.g. ``nnunet``.
    name: ClassVar[str]
    #: attrs class, frozen, each field with a default and ``metadata={"help": …}``: forms and options are drawn from it.
    params_type: ClassVar[type[Any]]

    @abstractmethod
    def models(self) -> Sequence[ModelInfo]:
        """Installed models; must be quick and must not load weights."""

    def model(self, name: str | None) -> ModelInfo:
        """The model called `name`, or the only one if `name` is None.

        Raises
        ------
        UnknownModel
            If there is no such model, or several and none is named.
        """
        known = {info.name: info for info in self.models()}
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        if name in known:
            return known[name]
        names = ", ".join(sorted(known)) or "none"
        asked = "no model was named" if name is None else f"no model is called {name!r}"
        raise UnknownModel(
            asked, hint=f"runner {self.name} has: {names}; add one with: cryomamba models install FOLDER --name NAME"
        )

    def recognises(self, folder: Path) -> bool:
        """Whether `install` could take this folder, judged by the names of its files."""
        return False

    def install(self, folder: Path, *, name: str | None = None, options: dict[str, str] | None = None) -> ModelInfo:
        """Install a model from a folder.

        Parameters
        ----------
        folder
            A trained model as its authors distribute it. Nothing in it is trusted or executed.
        name
            Name to install it under; None for one made from the folder's name and the digest, in
            which case a model that is already installed with that digest is returned as it is.
        options
            What the runner needs to know besides, e.g. ``{"spacing_unit": "mm"}``.

        Raises
        ------
        ModelError
            UnusableModel, HostileModel, UnsupportedModel, or ModelExists. Nothing is left behind.
        """
        raise UnsupportedModel(f"runner {self.name} has no models to install", hint="it works without any")

    @abstractmethod
    def plan(self, model: ModelInfo, grid: VoxelGrid, params: Any, device: str) -> RunPlan:
        """Say what a run would cost, without loading weights.

        Parameters
        ----------
        model
            One of `models`.
        grid
            Grid of the volume.
        params
            An instance of `params_type`.
        device
            Where it would run.

        Raises
        ------
        CryoMambaError
            If the run is bound to be refused: UnsupportedModel, InvalidParameter, OutOfMemory.
        """

    def check_volume(self, model: ModelInfo, volume: Volume) -> None:  # noqa: B027  # an optional method
        """Refuse a volume that a model cannot take, such as one of other channels, before its job is accepted.

        Nothing but what the header says is to be asked of it: no voxel is read. A runner takes any volume unless it has
        this method; of one with several channels it is given the first, and may ask for the others.

        Raises
        ------
        UnusableVolume
            If it cannot; with a hint.
        """

    def sweep_axis(self, model: ModelInfo, grid: VoxelGrid, params: Any, device: str) -> int:
        """Along which axis of the volume blocks come in ascending order: 0 for Z, 1 for Y, 2 for X.

        Rows along it that are whole and final are what a job goes on from after a crash. The same
        arguments must give the same axis in every attempt; they are those of `plan`.
        """
        return 0

    def settle(self, model: ModelInfo, params: Any, device: str) -> Any:
        """Parameters with all that this machine decides put in, such as a precision that suits its CPU.

        Asked before the first attempt at a job; further attempts, on whatever machine, and the workers of all its
        shards, are given the same answer. The manifest names it. It is asked again of its own answer before a further
        attempt: what a device settles, it settles without an error again.

        Raises
        ------
        CryoMambaError
            If the device cannot run with them. Where they are the answer of another device, the job begins anew.
        """
        return params

    def companions(self, model: ModelInfo, params: Any) -> Sequence[Companion]:
        """Volumes that come with the labels of a run with these parameters, e.g. how uncertain they are.

        They come with each final block, in `LabelBlock.companions`, from the pass that makes the labels, which are the
        same with and without. The framework resumes, bins and writes them, in the format of each mask.
        """
        return ()

    def shard_bounds(self, model: ModelInfo, grid: VoxelGrid, params: Any, device: str, count: int) -> tuple[int, ...]:
        """Where a volume is best cut along `sweep_axis`, so that several workers segment it at the same time.

        Each of them is asked for the rows of one piece only (`RunContext.rows`), and must give them the labels that
        they have in a run over the whole volume. A runner that cannot do that leaves this method out.

        Parameters
        ----------
        model, grid, params, device
            Those of `plan`.
        count
            How many pieces are wanted, 1 or more.

        Returns
        -------
        bounds
            Ascending rows, the first 0 and the last the volume's extent: one more than there are pieces. There are
            fewer pieces than asked for where the work cannot be divided so often.

        Raises
        ------
        ShardsUnavailable
            If the runner cannot do it, or not with these arguments.
        """
        raise ShardsUnavailable(
            f"runner {self.name} cannot divide a volume among several workers", hint="ask for one shard"
        )

    @abstractmethod
    def segment(self, volume: Volume, params: Any, context: RunContext) -> Iterator[LabelBlock]:
        """Segment a volume.

        Parameters
        ----------
        volume
            Read it by regions; it may be larger than memory.
        params
            An instance of `params_type`.
        context
            Model, device, and the framework's ears.

        Yields
        ------
        LabelBlock
            Blocks in any order. Together, the ones that are not provisional cover each voxel (from
            `context.final_rows` on) exactly once. Blocks in ascending order along `sweep_axis`, whole
            on the other axes, can be resumed. Provisional blocks are previewed until final ones come.
            Of a run that is asked for some rows only (`RunContext.rows`), others are left out.
        """
