"""Instance normalisation of maps whose channels lie side by side in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Numbers that are worked on at a time: they stay in the cache between one step and the next.
PIECE_NUMBERS = 1 << 17

#: Parts of a piece that may be added up by as many threads.
PARTS = 16

#: PyTorch adds up fewer numbers than these on one thread.
SERIAL_NUMBERS = 1 << 15

#: PyTorch gives a thread so many channels or a multiple: more are added up in the order in which these are.
WHOLE_CHANNELS = 32


def normalise_side_by_side(network: torch.nn.Module) -> None:
    """Replace the instance normalisations of a network by ones that take and return channels last in memory.

    oneDNN convolves with channels last, and PyTorch's instance normalisation copies them into another order and back.
    Its group normalisation does not, but takes variances as differences of mean squares in single precision, by threads
    in turn: wrong where a channel's mean is large against its spread, and another number for each count of threads.

    32 channels of 64³ voxels take 29 ms on one core of a Xeon of 2023, in group normalisation 20 and in instance
    normalisation 100.
    """
    import torch

    class SideBySide(torch.nn.Module):
        def __init__(self, plain: Any) -> None:
            super().__init__()
            self.weight, self.bias, self.eps = plain.weight, plain.bias, plain.eps

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            layout = torch.channels_last_3d if maps.ndim == 5 else torch.channels_last
            maps = maps.contiguous(memory_format=layout)
            made = torch.empty_like(maps)
            channels = maps.shape[1]
            size = PARTS * max(1, PIECE_NUMBERS // (PARTS * channels))
            for image, out in zip(maps.movedim(1, -1), made.movedim(1, -1), strict=True):
                pieces = image.reshape(-1, channels).split(size)
                factor, offset = self._line(pieces)
                for piece, written in zip(pieces, out.view(-1, channels).split(size), strict=True):
                    written.copy_((piece * factor).add_(offset))
            return made

        def _line(self, pieces: Any) -> tuple[torch.Tensor, torch.Tensor]:
            """What the numbers of each channel are multiplied by, and what is added."""
            mean, variance = mean_and_variance(pieces)
            factor = (variance + self.eps).rsqrt()
            if self.weight is not None:
                factor *= self.weight
            offset = -mean * factor
            if self.bias is not None:
                offset += self.bias
            return factor.float(), offset.float()

    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in (torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d) and not child.track_running_stats:
                setattr(parent, name, SideBySide(child))


def mean_and_variance(pieces: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel over pieces (voxels, channels), in double precision.

    Squares are those of distances from a piece's own mean, to which the distance of that from the mean of all comes in
    the end, as in Chan, Golub and LeVeque, *Algorithms for computing the sample variance*, 1983, equation 1.5.
    """
    import torch

    means, variances = [], []
    for piece in pieces:
        numbers = piece.float()
        means.append(added(numbers) / len(piece))
        distances = numbers - means[-1]
        variances.append(added(distances.mul_(distances)) / len(piece))
    sizes = torch.tensor([len(piece) for piece in pieces], dtype=torch.float64)
    shares = (sizes / sizes.sum())[:, None]
    each = torch.stack(means).double()
    mean = (each * shares).sum(0)
    variance = ((torch.stack(variances).double() + (each - mean) ** 2) * shares).sum(0)
    return mean, variance


def added(numbers: torch.Tensor) -> torch.Tensor:
    """Sums over voxels (voxels, channels), in an order that no count of threads changes."""
    import torch

    voxels, channels = numbers.shape
    if channels % WHOLE_CHANNELS:
        parts = torch.split(numbers, max(1, (SERIAL_NUMBERS - 1) // channels))
        return torch.stack([part.sum(0) for part in parts]).sum(0)
    count = 1 if voxels % PARTS else PARTS
    return numbers.view(count, -1, channels).sum(1).sum(0)
