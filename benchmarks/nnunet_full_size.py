"""Seconds that a tile takes a network of full size, with 31 million weights and tiles of 128³, in each mode.

::

    python benchmarks/nnunet_full_size.py [--shape 128 192 192] [--mirroring]

The weights are random: the labels mean nothing, and only time and memory are shown.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from attrs import asdict
from rig.nnunet.cases import CONTESTANTS, arguments, measure
from rig.nnunet.models import full_size_model, lay_out
from rig.report import Figure, report
from rig.sheet import Sheet, number

from cryomamba_backends.nnunet.course import BFLOAT16, cpu_has

COLUMNS = (
    "",
    "seconds a tile",
    "processor seconds a tile",
    "stock's / that",
    "of the run outside the network",
    "MiB above its imports",
    "MiB in all",
)

#: How much faster than stock the fast mode has to be where the processor multiplies bfloat16.
LEAST = 1.9


def main() -> int:
    """Measure, print, and return the exit status."""
    contestants = ["stock", "exact", "fast-single", "fast"]
    if cpu_has(*BFLOAT16):
        contestants.append("fast-bfloat16")
    options = arguments(__doc__, shape=(128, 192, 192), contestants=contestants).parse_args()
    title = (
        f"a network of 31 million weights on {' × '.join(map(str, options.shape))}{', mirrored' * options.mirroring}"
    )
    sheet, figures, outcomes = Sheet(title=title, columns=COLUMNS), [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = lay_out(folder, options.model or full_size_model(folder / "model"), options)
        for contestant in options.contestants:
            outcome = outcomes[contestant] = measure(contestant, case)
            if outcome.missing:
                cells = [f"not installed: pip install {outcome.missing}", *[""] * (len(COLUMNS) - 2)]
                sheet.rows.append((CONTESTANTS[contestant], *cells))
                continue
            stock = outcomes.get("stock")
            each = outcome.network.processor / outcome.passes
            ratio = stock.network.processor / stock.passes / each if stock else None
            rest = 1 - outcome.network.wall / outcome.whole.wall
            cells = [number(outcome.network.wall / outcome.passes), number(each), number(ratio), f"{rest:.1%}"]
            cells += [number(outcome.added), number(outcome.peak)]
            sheet.rows.append((CONTESTANTS[contestant], *cells))
            sheet.notes.append(f"{CONTESTANTS[contestant]}: {outcome.passes} × the network; {outcome.note}.")
            if contestant == "fast" and ratio is not None:
                least = LEAST if cpu_has(*BFLOAT16) else None
                figures.append(
                    Figure(name="fast: stock's processor time a tile / its own", value=ratio, unit="×", least=least)
                )
    sheet.show(options.write)
    return report(title, figures, outcomes={name: asdict(outcome) for name, outcome in outcomes.items()})


if __name__ == "__main__":
    sys.exit(main())
