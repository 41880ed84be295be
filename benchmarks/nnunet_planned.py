"""What the plan says of memory, against what run after run then holds.

::

    python benchmarks/nnunet_planned.py [--runs 6] [--model FOLDER] [--shape 192 160 160] [--mirroring]
    python benchmarks/nnunet_planned.py --full-size [--runs 4]

How a process lays out what it allocates is chance, and more so with several threads: each run has a process of its own,
and the farthest from the plan is what counts. ``--full-size`` takes a network of 31 million random weights.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from attrs import asdict
from rig.nnunet.cases import CONTESTANTS, arguments, measure
from rig.nnunet.models import demo_model, full_size_model, lay_out
from rig.report import Figure, report
from rig.sheet import Sheet, number

COLUMNS = ("", "runs", "the plan: MiB above its imports", "least", "median", "most", "farthest from the plan")

#: Part of what is held by which a plan may be wrong.
MOST_WRONG = 0.15


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = arguments(__doc__, shape=(192, 160, 160), contestants=("exact", "fast"))
    parser.add_argument("--runs", type=int, default=6, help="of each (default: %(default)s)")
    parser.add_argument("--full-size", action="store_true", help="a network of 31 million weights, on 128 × 192 × 192")
    options = parser.parse_args()
    if options.full_size:
        options.shape = (128, 192, 192)
    shape = " × ".join(map(str, options.shape))
    kind = ", a network of 31 million weights" * options.full_size
    title = f"memory as planned and as held, {shape}{', mirrored' * options.mirroring}{kind}"
    sheet, figures, details = Sheet(title=title, columns=COLUMNS), [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = full_size_model if options.full_size else demo_model
        case = lay_out(folder, options.model or make(folder / "model"), options)
        for contestant in options.contestants:
            outcomes = [measure(contestant, case) for _ in range(options.runs)]
            held = sorted(outcome.added for outcome in outcomes)
            planned = outcomes[0].planned
            if planned is None:
                parser.error(f"there is no plan of {contestant}")
            wrong = max(abs(planned / value - 1) for value in held)
            cells = [number(value) for value in (planned, held[0], statistics.median(held), held[-1])]
            sheet.rows.append((CONTESTANTS[contestant], str(options.runs), *cells, f"{wrong:.1%}"))
            figures.append(Figure(name=f"{contestant}: wrong by at most", value=wrong, unit="", most=MOST_WRONG))
            details[contestant] = [asdict(outcome) for outcome in outcomes]
    sheet.show(options.write)
    return report(title, figures, outcomes=details)


if __name__ == "__main__":
    sys.exit(main())
