"""A run context without a job around it: records what a runner says, and cancels when told to."""

from __future__ import annotations

from pathlib import Path

from cryomamba_core.interfaces import JobCanceled, RunContext
from cryomamba_core.models import ModelInfo
from cryomamba_core.volumes import IntensityStatistics, Volume, measure_intensity


class RecordingContext(RunContext):
    """Runs a runner by itself, in a test, a notebook or a benchmark.

    Parameters
    ----------
    model
        The model to run.
    volume
        The volume that will be segmented; its grey values are measured now unless `intensity` is given.
    intensity
        Its grey values.
    device
        Where to run.
    final_rows
        How many rows along the runner's `ModelRunner.sweep_axis` count as final already.
    previewed
        Whether provisional blocks are wanted.
    shard
        The rows, first and behind the last, that alone are asked for; None for all.
    scratch
        A folder for what memory does not hold; None for none.
    lasting
        A folder for what another attempt goes on from; None for none.
    source
        SHA-256 (hex) of the volume's file.
    cancel_at
        Number of the checkpoint, counted from 1, that cancels; None for none.

    Attributes
    ----------
    checkpoints
        How often `checkpoint` was called.
    reports
        Arguments (done, total, unit) of every `report`.
    notes
        Every sentence of `note`.
    """

    def __init__(
        self,
        model: ModelInfo,
        volume: Volume | None = None,
        *,
        intensity: IntensityStatistics | None = None,
        device: str = "cpu",
        final_rows: int = 0,
        previewed: bool = True,
        shard: tuple[int, int] | None = None,
        scratch: Path | None = None,
        lasting: Path | None = None,
        source: str = "",
        cancel_at: int | None = None,
    ) -> None:
        if intensity is None:
            if volume is None:
                raise ValueError("give the volume or its intensity statistics")
            intensity = measure_intensity(volume)
        super().__init__(
            model=model,
            device=device,
            intensity=intensity,
            final_rows=max(final_rows, shard[0]) if shard else final_rows,
            previewed=previewed,
            shard=shard,
            scratch=scratch,
            lasting=lasting,
            source=source,
        )
        self._cancel_at = cancel_at
        self.checkpoints: int = 0
        self.reports: list[tuple[int, int, str]] = []
        self.notes: list[str] = []

    def cancel(self) -> None:
        """Make the next checkpoint raise `JobCanceled`, and every one after it."""
        self._cancel_at = self.checkpoints + 1

    def checkpoint(self) -> None:
        """Count the call; raises `JobCanceled` once canceled."""
        self.checkpoints += 1
        if self._cancel_at is not None and self.checkpoints >= self._cancel_at:
            raise JobCanceled

    def report(self, done: int, total: int, unit: str) -> None:
        """Keep the report; raises ValueError unless `done` is from 0 to `total`."""
        if not 0 <= done <= total:
            raise ValueError(f"{done} of {total} {unit} cannot be done")
        self.reports.append((done, total, unit))

    def note(self, sentence: str) -> None:
        """Keep the sentence."""
        self.notes.append(sentence)
