"""Run the case of the command line by one contestant, and print how it went."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from attrs import asdict

from rig.nnunet import konfai_predict, monai_window, ours, stock
from rig.nnunet.cases import Case, Outcome

RUNS: dict[str, Callable[[Case, Path | None], Outcome]] = {
    "stock": stock.run,
    "konfai": konfai_predict.run,
    "monai": monai_window.run,
    "exact": partial(ours.run, mode="exact"),
    "fast": partial(ours.run, mode="fast"),
    "fast-bfloat16": partial(ours.run, mode="fast", precision="bfloat16"),
    "fast-single": partial(ours.run, mode="fast", precision="single"),
}


def main() -> None:
    """Run."""
    told = json.loads(sys.argv[1])
    labels = Path(told["labels"]) if told["labels"] else None
    try:
        outcome = RUNS[told["contestant"]](Case(**told["case"]), labels)
    except ModuleNotFoundError as error:
        outcome = Outcome(missing=error.name or str(error))
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
