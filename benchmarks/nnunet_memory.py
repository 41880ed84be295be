"""Peak memory when a tomogram doubles along the axis of the sweep, and at 512³ voxels.

::

    python benchmarks/nnunet_memory.py [--model FOLDER] [--shape 192 192 192] [--mirroring] [--network]
    python benchmarks/nnunet_memory.py --large [--mirroring]

Every run has a process of its own, and a copy of the input replaces the network unless ``--network`` asks for it: what
grows with a volume are the sums. ``--large`` runs 512 × 512 × 512 voxels once instead of two lengths.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from attrs import asdict
from rig.nnunet.cases import CONTESTANTS, OURS, arguments, measure
from rig.nnunet.models import demo_model, lay_out, write_volume
from rig.report import Figure, report
from rig.sheet import Sheet, number

LARGE = (512, 512, 512)

#: MiB that doubling may add, that a run over `LARGE` may hold in all, and what of stock's memory it may take.
MOST_MORE, MOST_IN_ALL, LEAST_SAVED = 32, 650, 7


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = arguments(__doc__, shape=(192, 192, 192), contestants=("stock", "exact", "fast"))
    parser.add_argument("--network", dest="stub", action="store_false", help="the real network")
    parser.add_argument("--large", action="store_true", help="512 × 512 × 512 voxels, once")
    parser.set_defaults(stub=True)
    options = parser.parse_args()
    z, y, x = options.shape = LARGE if options.large else tuple(options.shape)
    if z < max(y, x):
        parser.error("z must be the longest axis, so that every engine sweeps along it")
    shapes = [(z, y, x)] if options.large else [(z, y, x), (2 * z, y, x)]
    outcomes = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = lay_out(folder, options.model or demo_model(folder / "model"), options)
        title = f"peak memory{', mirrored' * options.mirroring}{', without a network' * options.stub}"
        columns = (
            "",
            *(f"{' × '.join(map(str, shape))}: MiB {of}" for shape in shapes for of in ("above its imports", "in all")),
        )
        sheet = Sheet(title=title, columns=columns)
        for shape in shapes:
            if shape != shapes[0]:
                write_volume(Path(case.volume), shape)
            for contestant in options.contestants:
                outcomes[contestant, shape] = measure(contestant, case)
    figures = []
    for contestant in options.contestants:
        its = [outcomes[contestant, shape] for shape in shapes]
        missing = its[0].missing and f"not installed: pip install {its[0].missing}"
        cells = [number(value) for outcome in its for value in (outcome.added, outcome.peak)]
        sheet.rows.append((CONTESTANTS[contestant], *([missing, *cells[1:]] if missing else cells)))
        if its[0].missing:
            continue
        if contestant in OURS and options.large:
            figures.append(Figure(name=f"{contestant}: in all", value=its[0].peak, unit="MiB", most=MOST_IN_ALL))
            if "stock" in options.contestants:
                saved = outcomes["stock", LARGE].added / its[0].added
                figures.append(
                    Figure(name=f"{contestant}: stock's / its own", value=saved, unit="×", least=LEAST_SAVED)
                )
        elif not options.large:
            most = MOST_MORE if contestant in OURS else None
            more = its[1].added - its[0].added
            figures.append(Figure(name=f"{contestant}: what doubling added", value=more, unit="MiB", most=most))
    for figure in figures:
        limit = f", to be {figure.limit.strip()}" if figure.limit else ""
        sheet.notes.append(f"{figure.name}: {figure.value:.4g} {figure.unit}{limit}.")
    sheet.show(options.write)
    told = {f"{contestant} {shape}": asdict(outcome) for (contestant, shape), outcome in outcomes.items()}
    return report(title, figures, outcomes=told)


if __name__ == "__main__":
    sys.exit(main())
