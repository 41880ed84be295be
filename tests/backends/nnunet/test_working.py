"""What networks hold that no plans describe."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from torchvision_operators import import_torchvision

torch = pytest.importorskip("torch", reason="nnU-Net models need PyTorch")

from cryomamba_backends.nnunet.memory import LIBRARIES  # noqa: E402
from cryomamba_backends.nnunet.primus import build_primus, primus_recipe  # noqa: E402
from cryomamba_backends.nnunet.working import working_bytes  # noqa: E402

MAP = 4 * 16**3
PATCH = (96, 96, 96)


def test_maps_count_while_they_are_alive():
    with torch.device("meta"):
        narrow = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.Conv3d(8, 2, 3, padding=1))
    assert working_bytes(narrow, (1, 1, 16, 16, 16)) == (1 + 8 + 2) * MAP

    class Skipping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (torch.nn.Conv3d(each, 8, 3, padding=1, device="meta") for each in (1, 8))

        def forward(self, tile):
            kept = self.first(tile)
            return torch.cat([kept, self.second(self.second(kept))], 1)

    assert working_bytes(Skipping(), (1, 1, 16, 16, 16)) == (1 + 8 + 8 + 16) * MAP


def test_layers_that_need_numbers_are_not_counted():
    class Counting(torch.nn.Module):
        def forward(self, tile):
            return tile * float(tile.sum())

    assert working_bytes(Counting(), (1, 1, 16, 16, 16)) == 0


def held_by(trainer: str) -> tuple[int, int]:
    """Bytes that a Primus held at its peak, over two tiles, and that it was said to; for a process of its own."""
    import_torchvision()
    torch.set_num_threads(1)
    recipe = primus_recipe(trainer, PATCH)
    told = working_bytes(build_primus(recipe, channels=1, heads=3).eval(), (1, 1, *PATCH))
    network = build_primus(recipe, channels=1, heads=3).eval().requires_grad_(requires_grad=False)
    weights = {key: torch.full(tensor.shape, 0.01) for key, tensor in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    before = psutil.Process().memory_info().rss
    with torch.inference_mode():
        for _ in range(2):
            network(torch.ones((1, 1, *PATCH)))
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024
    return peak - before, told


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell what a process held")
@pytest.mark.parametrize("trainer", ["nnUNet_Primus_S_Trainer", "nnUNet_PrimusV2S_Trainer"])
def test_what_primus_holds_is_foretold(trainer):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        held, told = alone.submit(held_by, trainer).result()
    # As of the networks that plans describe: how maps lie in memory is chance.
    assert 0.8 * held < told + LIBRARIES < 1.5 * held
