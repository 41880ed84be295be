"""Write an installed model back as a trained-model folder, so that stock nnU-Net can open it.

::

    python tools/write_trained_folder.py src/cryomamba_backends/nnunet/bundled/cryomamba-demo FOLDER
"""

import argparse
import shutil
from pathlib import Path

from cryomamba_backends.nnunet.installed import read_installed


def write_trained_folder(installed: Path, folder: Path) -> None:
    """Write plans, dataset and a checkpoint for each fold into `folder`, which is made."""
    import torch

    model = read_installed(installed)
    folder.mkdir(parents=True)
    for file in ("plans.json", "dataset.json"):
        shutil.copy(installed / file, folder / file)
    for fold in model.record.folds:
        network = model.network(fold, model.recipe())
        (folder / f"fold_{fold.fold}").mkdir()
        torch.save(
            {
                "network_weights": network.state_dict(),
                "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": model.record.configuration},
                "inference_allowed_mirroring_axes": model.record.mirroring_axes or None,
            },
            folder / f"fold_{fold.fold}" / "checkpoint_final.pth",
        )


def main() -> None:
    """Write the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("installed", type=Path, help="folder of an installed model")
    parser.add_argument("folder", type=Path, help="folder to make")
    options = parser.parse_args()
    write_trained_folder(options.installed, options.folder)


if __name__ == "__main__":
    main()
