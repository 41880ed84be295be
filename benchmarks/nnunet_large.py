"""What the engine itself takes for a tomogram of 10 GB: a network without work, with the tiles of one of full size.

::

    python benchmarks/nnunet_large.py [--shape 400 720 720]
    python benchmarks/nnunet_large.py --large

``--large`` is 1,000 × 1,600 × 1,600 voxels in single precision, 10.2 GB, and needs 13 GB of disk below ``TMPDIR``;
without, a twelfth of it. Stock nnU-Net is not asked: it would need 64 GB for the large one.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

from attrs import asdict
from rig.nnunet.cases import CONTESTANTS, arguments, measure
from rig.nnunet.models import full_size_model, lay_out
from rig.report import Figure, report
from rig.sheet import Sheet, number

LARGE = (1000, 1600, 1600)

#: Resident memory in all, in MiB: 8 GB.
MOST = 8e9 / 2**20

COLUMNS = (
    "",
    "seconds",
    "processor ns a voxel",
    "tiles",
    "of it in the network",
    "first final labels after",
    "MiB above its imports",
    "MiB in all",
)


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = arguments(__doc__, shape=(400, 720, 720), contestants=("exact", "fast"))
    parser.add_argument("--large", action="store_true", help="10 GB")
    parser.set_defaults(stub=True)
    options = parser.parse_args()
    options.shape = LARGE if options.large else tuple(options.shape)
    voxels = math.prod(options.shape)
    title = f"{' × '.join(map(str, options.shape))} voxels, {4 * voxels / 1e9:.1f} GB, without a network"
    sheet, figures, outcomes = Sheet(title=title, columns=COLUMNS), [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = lay_out(folder, options.model or full_size_model(folder / "model"), options)
        for contestant in options.contestants:
            outcome = outcomes[contestant] = measure(contestant, case, labels=folder / "labels.raw")
            cells = [number(outcome.whole.wall), number(1e9 * outcome.whole.processor / voxels), number(outcome.passes)]
            cells += [f"{outcome.network.processor / outcome.whole.processor:.0%}", f"{number(outcome.final)} s"]
            cells += [number(outcome.added), number(outcome.peak)]
            sheet.rows.append((CONTESTANTS[contestant], *cells))
            sheet.notes.append(f"{CONTESTANTS[contestant]}: {outcome.note}.")
            figures.append(Figure(name=f"{contestant}: resident in all", value=outcome.peak, unit="MiB", most=MOST))
    sheet.show(options.write)
    return report(title, figures, outcomes={name: asdict(outcome) for name, outcome in outcomes.items()})


if __name__ == "__main__":
    sys.exit(main())
