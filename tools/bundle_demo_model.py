"""Put a freshly trained demonstration model where the package ships it.

::

    python tools/bundle_demo_model.py build/demo-model

The folder is what ``tools/train_demo_model.py`` writes. The model is installed as any other is; its spacing
counts as voxels, so that the demonstration model takes a tomogram of any voxel size as it is.
"""

import argparse
import shutil
from pathlib import Path

from cryomamba_backends.nnunet.installation import parse_options, prepare, write_model
from cryomamba_backends.nnunet.runner import BUNDLED

NAME = "cryomamba-demo"
OPTIONS = {
    "spacing_unit": "voxels",
    "description": (
        "A small network for the demo, trained by stock nnU-Net on synthetic tomograms of vesicles, microtubules "
        "and ribosome-like particles at 10 Å a voxel. Not meant for science."
    ),
    "licence": "BSD-3-Clause",
}


def main() -> None:
    """Replace the bundled model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="trained-model folder")
    prepared = prepare(parser.parse_args().folder, parse_options(OPTIONS))
    shutil.rmtree(BUNDLED / NAME, ignore_errors=True)
    BUNDLED.mkdir(exist_ok=True)
    print(f"bundled {NAME}, digest {write_model(prepared, BUNDLED, NAME).record.digest[:12]}")


if __name__ == "__main__":
    main()
