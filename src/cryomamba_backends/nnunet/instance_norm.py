"""Instance normalisation of maps whose channels lie side by side in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryomamba_backends.nnunet.layers import replace_layers

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
    """Replace the instance normalisations of a network by ones of channels that lie last in memory.

    They write where they read, as nothing in the networks of nnU-Net has another use for what a convolution made.

    oneDNN convolves with channels last, and PyTorch's instance normalisation copies them into another order and back.
    Its group normalisation does not, but takes variances as differences of mean squares in single precision, by threads
    in turn: wrong where a channel's mean is large against its spread, and another number for each count of threads.

    32 channels of 64³ voxels take 6 ms on one core of an AMD EPYC, in group normalisation 18 and in instance
    normalisation 63.
    """
    import torch

    class SideBySide(torch.nn.Module):
        def __init__(self, plain: Any) -> None:
            super().__init__()
            self.weight, self.bias, self.eps = plain.weight, plain.bias, plain.eps

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            layout = torch.channels_last_3d if maps.ndim == 5 else torch.channels_last
            maps = maps.contiguous(memory_format=layout)
            channels = maps.shape[1]
            for image in maps.movedim(1, -1):
                pieces = Pieces(image.view(-1, channels))
                factor, offset = self._line(pieces)
                pieces.scale(factor, offset)
            return maps

        def _line(self, pieces: Pieces) -> tuple[torch.Tensor, torch.Tensor]:
            """What the numbers of each channel are multiplied by, and what is added."""
            mean, variance = pieces.mean_and_variance()
            factor = (variance + self.eps).rsqrt()
            if self.weight is not None:
                factor *= self.weight
            offset = -mean * factor
            if self.bias is not None:
                offset += self.bias
            return factor.float(), offset.float()

    def beside(layer: torch.nn.Module) -> torch.nn.Module | None:
        plain = type(layer) in (torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d) and not layer.track_running_stats
        return SideBySide(layer) if plain else None

    replace_layers(network, beside)


class Pieces:
    """Numbers (voxels, channels), worked on in pieces that stay in the cache, with memory for one of them."""

    def __init__(self, numbers: torch.Tensor) -> None:
        import torch

        self._numbers = numbers
        self._channels = numbers.shape[1]
        self._size = PARTS * max(1, PIECE_NUMBERS // (PARTS * self._channels))
        self._memory = torch.empty((min(self._size, len(numbers)), self._channels))

    def mean_and_variance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of each channel, in double precision.

        Squares are those of distances from a piece's own mean, to which the distance of that from the mean of all comes
        in the end, as in Chan, Golub and LeVeque, *Algorithms for computing the sample variance*, 1983, equation 1.5.
        """
        import torch

        means, variances = [], []
        pieces = torch.split(self._numbers, self._size)
        for piece in pieces:
            distances = self._memory[: len(piece)]
            numbers = piece if piece.dtype == torch.float32 else distances.copy_(piece)
            means.append(added(numbers) / len(piece))
            torch.sub(self._in_runs(numbers), self._for_run(means[-1], len(piece)), out=self._in_runs(distances))
            variances.append(added(distances.mul_(distances)) / len(piece))
        sizes = torch.tensor([len(piece) for piece in pieces], dtype=torch.float64)
        shares = (sizes / sizes.sum())[:, None]
        each = torch.stack(means).double()
        mean = (each * shares).sum(0)
        variance = ((torch.stack(variances).double() + (each - mean) ** 2) * shares).sum(0)
        return mean, variance

    def scale(self, factor: torch.Tensor, offset: torch.Tensor) -> None:
        """Multiply the numbers of each channel, and add to them, where they lie."""
        import torch

        for piece in torch.split(self._numbers, self._size):
            line = [self._for_run(numbers, len(piece)) for numbers in (factor, offset)]
            if piece.dtype == torch.float32:
                torch.addcmul(line[1], self._in_runs(piece), line[0], out=self._in_runs(piece))
            else:
                numbers = self._in_runs(self._memory[: len(piece)].copy_(piece))
                piece.copy_(torch.addcmul(line[1], numbers, line[0], out=numbers).view(piece.shape))

    def _in_runs(self, piece: torch.Tensor) -> torch.Tensor:
        """Numbers of several voxels as one row: PyTorch works on a row at a time, and one of a voxel is short."""
        return piece.view(-1, self._voxels_in_run(len(piece)) * self._channels)

    def _for_run(self, numbers: torch.Tensor, voxels: int) -> torch.Tensor:
        return numbers.repeat(self._voxels_in_run(voxels))

    @staticmethod
    def _voxels_in_run(voxels: int) -> int:
        return 1 if voxels % PARTS else PARTS


def added(numbers: torch.Tensor) -> torch.Tensor:
    """Sums over voxels (voxels, channels), in an order that no count of threads changes."""
    import torch

    voxels, channels = numbers.shape
    if channels % WHOLE_CHANNELS:
        parts = torch.split(numbers, max(1, (SERIAL_NUMBERS - 1) // channels))
        return torch.stack([part.sum(0) for part in parts]).sum(0)
    count = 1 if voxels % PARTS else PARTS
    return numbers.view(count, -1, channels).sum(1).sum(0)
