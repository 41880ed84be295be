"""Stock nnU-Net and this project's fast mode on one GPU: time, its memory beside the plan's, and labels.

::

    python benchmarks/nnunet_gpu.py [--mirroring] [--shape 256 384 384] [--write benchmarks/results/nnunet-gpu-CARD.md]
    python benchmarks/nnunet_gpu.py --full-size [--mirroring]

The demo's model, whose labels are compared with those of stock on the same card; ``--full-size`` takes a network of 31
million random weights, whose labels mean nothing. Where there is no GPU, it says so and measures nothing; ``--device
cpu`` shows that it works.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from attrs import asdict
from nnunet_engines import agreement
from rig.nnunet.cases import CONTESTANTS, Outcome, arguments, measure
from rig.nnunet.models import demo_model, full_size_model, lay_out
from rig.report import Figure, report
from rig.sheet import Sheet, number

COLUMNS = (
    "",
    "seconds",
    "of them outside the network",
    "stock's / that",
    "provisional labels everywhere after",
    "first final labels after",
    "MiB of the GPU",
    "as planned",
    "MiB of the host above its imports",
    "voxels ≠ stock's",
    "least Dice of a label",
)

#: Part of what is held by which a plan may be wrong.
MOST_WRONG = 0.15


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = arguments(__doc__, shape=(256, 384, 384), contestants=("stock", "fast", "fast-bfloat16", "fast-single"))
    parser.add_argument("--full-size", action="store_true", help="a network of 31 million weights")
    parser.set_defaults(device="cuda")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device: nothing is measured", file=sys.stderr)
        return 0
    shape = " × ".join(map(str, options.shape))
    kind = ", a network of 31 million weights" * options.full_size
    title = f"nnU-Net on {shape}{', mirrored' * options.mirroring}{kind}"
    sheet, figures, outcomes = Sheet(title=title, columns=COLUMNS, device=options.device), [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = full_size_model if options.full_size else demo_model
        case = lay_out(folder, options.model or make(folder / "model"), options)
        for contestant in options.contestants:
            labels = folder / f"{contestant}.raw"
            outcome = outcomes[contestant] = measure(contestant, case, labels=labels)
            stock = outcomes.get("stock") if contestant != "stock" else None
            compared = agreement(labels, folder / "stock.raw") if stock and not options.full_size else None
            sheet.rows.append(_row(contestant, outcome, stock, compared))
            sheet.notes.append(f"{CONTESTANTS[contestant]}: {outcome.passes} × the network; {outcome.note}.")
            figures += _judge(contestant, outcome, stock)
    sheet.show(options.write)
    return report(title, figures, outcomes={name: asdict(outcome) for name, outcome in outcomes.items()})


def _judge(contestant: str, outcome: Outcome, stock: Outcome | None) -> Iterator[Figure]:
    """What there are limits for: the time of the default mode, and the plan of each."""
    if contestant == "fast" and stock is not None:
        yield Figure(name="fast: its time / stock's", value=outcome.whole.wall / stock.whole.wall, unit="×", most=1)
    if outcome.vram_planned:
        wrong = abs(outcome.vram_planned / outcome.vram - 1)
        yield Figure(
            name=f"{contestant}: the plan of the GPU's memory, wrong by", value=wrong, unit="", most=MOST_WRONG
        )


def _row(
    contestant: str, outcome: Outcome, stock: Outcome | None, compared: tuple[float, float] | None
) -> tuple[str, ...]:
    different, dice = compared or (None, None)
    return (
        CONTESTANTS[contestant],
        number(outcome.whole.wall),
        f"{1 - outcome.network.wall / outcome.whole.wall:.1%}",
        f"{stock.whole.wall / outcome.whole.wall:.2f}" if stock else "–",
        number(outcome.coarse),
        number(outcome.final),
        number(outcome.vram or None),
        number(outcome.vram_planned or None),
        number(outcome.added),
        number(different, 2),
        "–" if dice is None else f"{dice:.5f}",
    )


if __name__ == "__main__":
    sys.exit(main())
