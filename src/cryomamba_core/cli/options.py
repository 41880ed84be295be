"""Options and values that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

F = TypeVar("F", bound=Callable[..., Any])


class VoxelSize(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A voxel size in Å: one number, or three as z,y,x."""

    name = "Å | Z,Y,X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Three lengths (z, y, x) in Å."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3 or not all(math.isfinite(number) and number > 0 for number in numbers):
            self.fail(f"{value!r} is no voxel size: give one length in Å, or three as z,y,x", param, ctx)
        return tuple(numbers)


def json_option(function: F) -> F:
    """``--json``: one JSON document on standard output, and nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")(function)


def voxel_size_option(function: F) -> F:
    """``--voxel-size``: what the header should have said."""
    return click.option(
        "--voxel-size", type=VoxelSize(), help="Voxel size to use instead of the header's, in Å: one number, or z,y,x."
    )(function)
