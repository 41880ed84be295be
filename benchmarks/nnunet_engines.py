"""Stock nnU-Net, KonfAI, MONAI and this project's two modes on one model and one volume.

::

    python benchmarks/nnunet_engines.py [--model FOLDER] [--shape 192 160 160] [--mirroring] [--stub]

Every run has a process of its own. With ``--stub`` a copy of the input replaces the network, which shows memory at
large shapes in a short time; its labels mean nothing then.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from attrs import asdict
from rig.nnunet.cases import CONTESTANTS, Outcome, arguments, measure
from rig.nnunet.models import demo_model, lay_out
from rig.report import Figure, report
from rig.sheet import Sheet, number

#: Voxels that are compared at a time.
PIECE = 1 << 22

#: Part of a mirrored run after which all of the tomogram has provisional labels.
MOST_COARSE = 0.03
#: Part of a run until the first final labels, as a multiple of what one row of its tiles is of all.
MOST_FIRST = 1.2

#: How long a run may take as a multiple of what its network takes for the tiles.
MOST_AROUND = 1.05

COLUMNS = (
    "",
    "seconds",
    "of them outside the network",
    "processor seconds",
    "stock's / that",
    "provisional labels everywhere after",
    "first final labels after",
    "MiB above its imports",
    "stock's MiB / that",
    "MiB in all",
    "voxels ≠ stock's",
    "least Dice of a label",
)


def agreement(found: Path, expected: Path) -> tuple[float, float]:
    """Part of the voxels that differ, and the least Dice of a label."""
    ours, theirs = (np.memmap(path, np.uint8, "r") for path in (found, expected))
    different = 0
    both = np.zeros(256, np.int64)
    each = np.zeros(256, np.int64)
    for first in range(0, len(ours), PIECE):
        mine, other = ours[first : first + PIECE], theirs[first : first + PIECE]
        different += np.count_nonzero(mine != other)
        both += np.bincount(mine[mine == other].ravel(), minlength=256)
        each += np.bincount(mine.ravel(), minlength=256) + np.bincount(other.ravel(), minlength=256)
    present = each > 0
    return float(different / ours.size), float((2 * both[present] / each[present]).min())


def main() -> int:
    """Measure, print, and return the exit status."""
    options = arguments(__doc__, shape=(192, 160, 160)).parse_args()
    shape = " × ".join(map(str, options.shape))
    title = f"nnU-Net engines on {shape}{', mirrored' * options.mirroring}{', without a network' * options.stub}"
    sheet, figures, outcomes = Sheet(title=title, columns=COLUMNS), [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = lay_out(folder, options.model or demo_model(folder / "model"), options)
        for contestant in options.contestants:
            labels = None if options.stub else folder / f"{contestant}.raw"
            outcome = outcomes[contestant] = measure(contestant, case, labels=labels)
            compared = None
            if labels and contestant != "stock" and "stock" in outcomes and not outcome.missing:
                compared = agreement(labels, folder / "stock.raw")
            sheet.rows.append(_row(contestant, outcome, outcomes.get("stock"), compared))
            sheet.notes.extend(_notes(contestant, outcome))
            if contestant == "exact" and compared:
                figures.append(
                    Figure(name="exact: voxels that differ from stock", value=compared[0], unit="", most=1e-12)
                )
            if compared and contestant in ("exact", "fast"):
                figures += _judge(contestant, outcome, outcomes["stock"], mirrored=options.mirroring)
    sheet.show(options.write)
    return report(title, figures, outcomes={name: asdict(outcome) for name, outcome in outcomes.items()})


def _judge(contestant: str, outcome: Outcome, stock: Outcome, *, mirrored: bool) -> Iterator[Figure]:
    """Times of one of ours, with their limits."""
    wall = outcome.whole.wall
    yield Figure(name=f"{contestant}: its time / stock's", value=wall / stock.whole.wall, unit="×", most=1)
    around = wall / outcome.network.wall
    yield Figure(name=f"{contestant}: its time / that of its network", value=around, unit="×", most=MOST_AROUND)
    if outcome.final is not None:
        first = outcome.final / wall * outcome.rows
        name = f"{contestant}: part until the first final labels, in rows of tiles"
        yield Figure(name=name, value=first, unit="", most=MOST_FIRST)
    if mirrored and outcome.coarse is not None:
        name = f"{contestant}: part until provisional labels are everywhere"
        yield Figure(name=name, value=outcome.coarse / wall, unit="", most=MOST_COARSE)


def _row(
    contestant: str, outcome: Outcome, stock: Outcome | None, compared: tuple[float, float] | None
) -> tuple[str, ...]:
    name = CONTESTANTS[contestant]
    if outcome.missing:
        return (name, f"not installed: pip install {outcome.missing}", *[""] * (len(COLUMNS) - 2))
    different, dice = compared or (None, None)
    return (
        name,
        number(outcome.whole.wall),
        f"{1 - outcome.network.wall / outcome.whole.wall:.1%}",
        number(outcome.whole.processor),
        f"{stock.whole.processor / outcome.whole.processor:.2f}" if stock else "–",
        _share(outcome.coarse, outcome),
        _share(outcome.final, outcome),
        number(outcome.added),
        f"{stock.added / outcome.added:.1f}" if stock else "–",
        number(outcome.peak),
        number(different, 2),
        "–" if dice is None else f"{dice:.5f}",
    )


def _share(seconds: float | None, outcome: Outcome) -> str:
    return "–" if seconds is None else f"{number(seconds)} s ({seconds / outcome.whole.wall:.0%})"


def _notes(contestant: str, outcome: Outcome) -> list[str]:
    told = outcome.note
    if outcome.planned is not None:
        told += f"; its plan said {number(outcome.planned)} MiB above the imports"
    return [f"{CONTESTANTS[contestant]}: {told}."] if told else []


if __name__ == "__main__":
    sys.exit(main())
