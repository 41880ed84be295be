"""The picture of a segmentation: sections and a rendering, source beside truth beside answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKGROUND = "#101418"
INK = "#e8edf2"
FAINT = "#93a1ad"

#: Inches: a panel's width, the gap between panels, and the margins for the words.
PANEL, GAP, LEFT, HEAD, FOOT = 4.2, 0.1, 0.4, 1.15, 0.7

#: Sections that are averaged for the grey pictures, as one does at the microscope to see through the noise.
THICKNESS = 5

#: Where the light of the rendering comes from (z, y, x): above, from the upper left.
LIGHT = np.array([0.75, -0.5, -0.43])


def draw_picture(
    path: Path,
    *,
    tomogram: NDArray[np.float32],
    truth: NDArray[np.uint8],
    answer: NDArray[np.uint8],
    grid: VoxelGrid,
    labels: Sequence[Label],
    dice: Mapping[str, float],
    title: str,
    subtitle: str,
) -> None:
    """Draw the picture and write it as PNG.

    Parameters
    ----------
    path
        The file.
    tomogram, truth, answer
        ZYX arrays of the grid's shape; protein is dark in the tomogram.
    grid
        Gives lengths, in Å.
    labels
        Names and colours.
    dice
        Label name → Dice coefficient.
    title, subtitle
        What was done, and with what.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    depth, height, width = grid.shape
    heights = [PANEL * size / width for size in (height, depth, height)]
    size = (LEFT + 3 * PANEL + 3 * GAP, HEAD + sum(heights) + 2 * GAP + FOOT)
    figure = Figure(figsize=size, facecolor=BACKGROUND, dpi=150)
    FigureCanvasAgg(figure)
    axes = _panels(figure, heights)
    z, y = depth // 2, height // 2
    grey_z = _average(tomogram, 0, z)
    grey_y = _average(tomogram, 1, y)
    for column, volume in enumerate((None, truth, answer)):
        _show_section(axes[0, column], grey_z, None if volume is None else volume[z], labels)
        _show_section(axes[1, column], grey_y, None if volume is None else volume[:, y], labels)
        rendered = _project(tomogram) if volume is None else _render(volume, labels)
        axes[2, column].imshow(rendered, cmap="gray", origin="lower", interpolation="bilinear")
    _label(figure, axes, grid, title=title, subtitle=subtitle, labels=labels, dice=dice)
    figure.savefig(path, format="png", facecolor=BACKGROUND)


def _panels(figure: Figure, heights: Sequence[float]) -> NDArray[Any]:
    """Three rows of three panels, as wide as `PANEL` and as high as told, in inches."""
    width, height = figure.get_size_inches()
    axes = np.empty((3, 3), object)
    top = height - HEAD
    for row, panel_height in enumerate(heights):
        for column in range(3):
            box = (LEFT + column * (PANEL + GAP), top - panel_height, PANEL, panel_height)
            scaled = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
            axes[row, column] = figure.add_axes(scaled)
        top -= panel_height + GAP
    return axes


def _average(tomogram: NDArray[np.float32], axis: int, index: int) -> NDArray[np.float32]:
    half = THICKNESS // 2
    window = np.take(tomogram, range(max(0, index - half), min(tomogram.shape[axis], index + half + 1)), axis)
    mean: NDArray[np.float32] = window.mean(axis)
    return mean


def _show_section(
    axes: Axes, grey: NDArray[np.float32], section: NDArray[np.uint8] | None, labels: Sequence[Label]
) -> None:
    low, high = np.percentile(grey, (0.5, 99.5))
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bilinear")
    if section is not None:
        axes.imshow(_paint(section, labels, opacity=0.62), origin="lower", interpolation="nearest")


def _paint(section: NDArray[np.uint8], labels: Sequence[Label], opacity: float) -> NDArray[np.float64]:
    """RGBA picture of a section of labels; background is clear."""
    picture = np.zeros((*section.shape, 4))
    for label in labels:
        picture[section == label.value] = (*_rgb(label.color), opacity)
    return picture


def _rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def _project(tomogram: NDArray[np.float32]) -> NDArray[np.float32]:
    """The darkest grey along Z after smoothing: what is dense stands out of the noise."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(tomogram, 1.5)
    darkest: NDArray[np.float32] = smooth.min(axis=0)
    return np.clip(darkest, *np.percentile(darkest, (0.5, 99.5)))


def _render(volume: NDArray[np.uint8], labels: Sequence[Label]) -> NDArray[np.float64]:
    """The labels seen from above: the first voxel along Z, lit by its surface's direction, dimmed by depth."""
    from scipy import ndimage

    solid = volume > 0
    from_above = volume[::-1]
    first = np.argmax(solid[::-1], axis=0)
    seen = solid.any(axis=0)
    rows, columns = np.indices(first.shape)
    values = from_above[first, rows, columns]
    smooth = ndimage.gaussian_filter(solid[::-1].astype(np.float32), 1.6)
    slopes = np.stack([np.gradient(smooth, axis=axis)[first, rows, columns] for axis in range(3)], axis=-1)
    normals = slopes / np.maximum(np.linalg.norm(slopes, axis=-1, keepdims=True), 1e-6)
    brightness: NDArray[np.float64] = 0.32 + 0.68 * np.clip(normals @ LIGHT, 0, None)
    light = brightness * (1.0 - 0.45 * first / max(1, volume.shape[0] - 1))
    picture = np.empty((*first.shape, 3))
    picture[...] = _rgb(BACKGROUND)
    for label in labels:
        here = seen & (values == label.value)
        picture[here] = np.outer(light[here], _rgb(label.color))
    return picture


def _label(
    figure: Figure,
    axes: NDArray[Any],
    grid: VoxelGrid,
    *,
    title: str,
    subtitle: str,
    labels: Sequence[Label],
    dice: Mapping[str, float],
) -> None:
    width, height = figure.get_size_inches()
    left = LEFT / width
    figure.text(left, 1 - 0.36 / height, title, color=INK, fontsize=17, weight="bold", va="center")
    figure.text(left, 1 - 0.68 / height, subtitle, color=FAINT, fontsize=11, va="center")
    for column, name in enumerate(("tomogram", "truth", "segmentation")):
        axes[0, column].set_title(name, color=INK, fontsize=13, pad=6)
    for row, name in enumerate(("section XY", "section XZ", "seen along Z")):
        axes[row, 0].set_ylabel(name, color=FAINT, fontsize=11)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
        for side in panel.spines.values():
            side.set_visible(False)
    _scale_bar(axes[0, 0], grid)
    mean = sum(dice.values()) / max(1, len(dice))
    entries = [(label.color, f"{label.name}   Dice {dice.get(label.name, float('nan')):.3f}") for label in labels]
    entries.append((INK, f"mean   Dice {mean:.3f}"))
    for index, (color, text) in enumerate(entries):
        place = left + index * (1 - left) / len(entries)
        figure.text(place, 0.33 / height, "■", color=color, fontsize=15, va="center")
        figure.text(place + 0.25 / width, 0.33 / height, text, color=INK, fontsize=12, va="center")


def _scale_bar(axes: Axes, grid: VoxelGrid) -> None:
    """A bar of a round length, near a quarter of the width."""
    pixel = grid.voxel_size[2] / 10
    target = grid.shape[2] * pixel / 4
    length = max((step for step in (5, 10, 20, 50, 100, 200, 500, 1000) if step <= target), default=5)
    left, bottom = 0.05 * grid.shape[2], 0.06 * grid.shape[1]
    axes.plot([left, left + length / pixel], [bottom, bottom], color="white", linewidth=4, solid_capstyle="butt")
    axes.text(left, bottom + 0.025 * grid.shape[1], f"{length} nm", color="white", fontsize=11, weight="bold")
