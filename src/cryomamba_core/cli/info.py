"""``cryomamba info``: what a file's header says, and what its voxels are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from attrs import field, frozen
from click.exceptions import Exit

from cryomamba_core.cli.options import json_option, voxel_size_option
from cryomamba_core.cli.state import CliState
from cryomamba_core.errors import CryoMambaError, ErrorInfo

if TYPE_CHECKING:
    from cryomamba_core.geometry import Vector3, VoxelGrid
    from cryomamba_core.volumes import HeaderWarning, IntensityStatistics

#: Å in a nanometre.
ANGSTROM_PER_NM = 10.0


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@voxel_size_option
@click.option("--no-statistics", is_flag=True, help="Read the header only; for files that take long to read.")
@json_option
@click.pass_obj
def info(
    state: CliState, *, files: tuple[Path, ...], voxel_size: Vector3 | None, no_statistics: bool, as_json: bool
) -> None:
    """Show shape, voxel size, place, grey values, and what looks wrong in a header."""
    from cryomamba_core.cli.failures import COHORT_FAILED, exit_code_of

    facts = [_look(state, path, voxel_size, statistics=not no_statistics) for path in files]
    if as_json:
        plain = [fact.plain() for fact in facts]
        state.print_json(plain[0] if len(plain) == 1 else {"files": plain})
    else:
        for index, fact in enumerate(facts):
            if index:
                state.out.print()
            _show(state, fact)
    failed = [fact.error for fact in facts if fact.error is not None]
    if failed:
        raise Exit(exit_code_of(failed[0]) if len(files) == 1 else COHORT_FAILED)


@frozen(kw_only=True)
class FileFacts:
    """What was learnt of a file before something was wrong with it."""

    path: Path
    size: int = 0
    format: str = ""
    grid: VoxelGrid | None = None
    dtype: str = ""
    warnings: tuple[HeaderWarning, ...] = ()
    statistics: IntensityStatistics | None = None
    error: ErrorInfo | None = field(default=None)

    def plain(self) -> dict[str, Any]:
        """The facts as JSON types."""
        from cryomamba_core.wire import to_plain

        if self.grid is None:
            return {"path": str(self.path), "error": to_plain(self.error)}
        return {
            "path": str(self.path),
            "format": self.format,
            "size": self.size,
            "shape": list(self.grid.shape),
            "voxel_size": list(self.grid.voxel_size),
            "origin": list(self.grid.origin),
            "stored_axes": list(self.grid.stored_axes),
            "extent_nm": list(extent_nm(self.grid)),
            "dtype": self.dtype,
            "statistics": to_plain(self.statistics) if self.statistics else None,
            "warnings": [to_plain(warning) for warning in self.warnings],
            "error": to_plain(self.error) if self.error else None,
        }


def extent_nm(grid: VoxelGrid) -> Vector3:
    """Physical extent (z, y, x) in nm."""
    z, y, x = (size * length / ANGSTROM_PER_NM for size, length in zip(grid.shape, grid.voxel_size, strict=True))
    return z, y, x


def _look(state: CliState, path: Path, voxel_size: Vector3 | None, *, statistics: bool) -> FileFacts:
    from attrs import evolve

    from cryomamba_core.volumes import measure_intensity

    facts = FileFacts(path=path)
    try:
        reader = state.host.reader_for(path)
        facts = evolve(facts, size=path.stat().st_size, format=reader.name)
        with reader.open(path, voxel_size=voxel_size) as volume:
            facts = evolve(facts, grid=volume.grid, dtype=volume.dtype.name, warnings=tuple(volume.warnings))
            if statistics:
                facts = evolve(facts, statistics=measure_intensity(volume))
    except (CryoMambaError, OSError) as error:
        return evolve(facts, error=ErrorInfo.of(error))
    return facts


def _show(state: CliState, facts: FileFacts) -> None:
    from rich.text import Text

    from cryomamba_core import wording
    from cryomamba_core.cli.failures import show_error
    from cryomamba_core.cli.tables import new_form

    if facts.grid is not None:
        grid = facts.grid
        heading = Text(str(facts.path), style="bold")
        state.out.print(heading.append(f"  {facts.format} · {wording.byte_size(facts.size)}", style="not bold dim"))
        form = new_form()
        form.add_row("  shape", f"{wording.shape(grid.shape)} voxels (z, y, x)")
        form.add_row("  voxel size", wording.lengths(grid.voxel_size, "Å"))
        form.add_row("  extent", wording.lengths(extent_nm(grid), "nm"))
        form.add_row("  origin", ", ".join(f"{part:.6g}" for part in grid.origin) + " Å (z, y, x)")
        form.add_row("  type", facts.dtype)
        form.add_row("  stored axes", ", ".join("zyx"[axis] for axis in grid.stored_axes) + " (slowest first)")
        if facts.statistics is not None:
            grey = facts.statistics
            form.add_row(
                "  grey values",
                f"{grey.minimum:.6g} to {grey.maximum:.6g}, mean {grey.mean:.6g}, sd {grey.standard_deviation:.6g}",
            )
        state.out.print(form)
        for warning in facts.warnings:
            state.out.print(Text.assemble(("  warning: ", "yellow"), warning.message))
            if warning.hint:
                state.out.print(Text.assemble(("  hint:    ", "cyan"), warning.hint))
    if facts.error is not None:
        show_error(
            state.err, facts.error, subject=str(facts.path) if facts.path.name not in facts.error.message else ""
        )
