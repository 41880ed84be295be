"""What a run needs of memory and disk, whatever it does with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from attrs import frozen

from cryomamba_backends.nnunet.beside import beside_bytes, companions_asked
from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.memory import SINGLE, Need, Place, Way, peak_bytes
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.postprocessing import KeepLargest, postprocessing_bytes
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS

#: Pieces of probabilities that find no room in what networks have freed, in exact mode.
AVERAGED_PIECES = 1


@frozen(kw_only=True)
class Costs:
    """Bytes that a run needs.

    Attributes
    ----------
    chains
        The models whose probabilities are averaged, each after the one that it goes on from if it is a cascade.
    params
        Of the run.
    steps
        What is done with the mask when it is whole.
    """

    chains: Sequence[Sequence[Stage]]
    params: NNUNetParams
    steps: Sequence[KeepLargest] = ()

    @property
    def course(self) -> Course:
        """How the run goes."""
        return self.chains[0][-1].course

    def ram(self, way: Way) -> int:
        """Of the host's memory, at the peak."""
        return max(self._peak(lambda stage: stage.ram(way)) + self._beside[0], self._tidying)

    def vram(self, place: Place, batch: int) -> int:
        """Of the device's memory, with so many tiles at once; nothing on the CPU."""
        return self._peak(lambda stage: stage.vram(place, batch)) + self._beside[1]

    def disk(self, way: Way) -> int:
        """Of the disk of the job's folder: all labels of first stages and of a mask that is tidied up, and sums."""
        return self._labels_kept + (self.sums if way.place == "file" else 0)

    @property
    def sums(self) -> int:
        """Of the disk, where sums lie there."""
        return max(sum(stage.sums_bytes for stage in together) for together in self._in_turn)

    @property
    def hint(self) -> str:
        """What makes a run need less."""
        ways = ["cut the volume along its shorter axes (cutting the longest saves nothing)"]
        if self.course.exact:
            ways.append("use mode=fast")
            if any(len(stage.folds) > 1 for stages in self.chains for stage in stages):
                ways.append("average fewer folds")
        return " or ".join([", ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]

    @property
    def _alone(self) -> list[Stage]:
        """First stages that end before anything else begins."""
        return [stages[0] for stages in self.chains if stages[-1].follows_all]

    @property
    def _labels_kept(self) -> int:
        """Of files in which labels lie whole: see `WholeLabels`, and its copy that is tidied up."""
        kept = sum(stage.labels_bytes for stage in self._alone)
        if not self.steps:
            return kept
        last = self.chains[0][-1]
        beside = len(companions_asked(last.recipe.labels, self.params)) * math.prod(last.change.source)
        return kept + 2 * last.labels_bytes + beside

    @property
    def _in_turn(self) -> list[list[Stage]]:
        """The sweeps that go at the same time, one list after the other."""
        together = [stage for stages in self.chains for stage in (stages[-1:] if stages[-1].follows_all else stages)]
        return [*([stage] for stage in self._alone), together]

    def _peak(self, need: Callable[[Stage], Need]) -> int:
        """Of sweeps that take turns; the networks of those that have ended may be kept for a further job."""
        largest = max(peak_bytes([need(stage) for stage in together]) for together in self._in_turn)
        return largest and largest + sum(stage.weight_bytes for stage in self._alone)

    @property
    def _beside(self) -> tuple[int, int]:
        last = self.chains[0][-1]
        row, on_host = math.prod(last.change.source[1:]), last.course.device == "cpu"
        host, device = beside_bytes(last.recipe.labels, self.params, row, device=last.course.device)
        averaging = self._averaging(row)
        return (host + averaging, device) if on_host else (host, device + averaging)

    @property
    def _tidying(self) -> int:
        """When the mask is whole; the networks may be kept for a further job."""
        if not self.steps:
            return 0
        last = self.chains[0][-1]
        weights = sum(stage.weight_bytes for stages in self.chains for stage in stages)
        return weights + postprocessing_bytes(last.change.source, last.recipe.labels.dtype)

    def _averaging(self, row_voxels: int) -> int:
        """The scores that all models of an ensemble but one wait with, while the networks of that one run.

        Their probabilities and the mean find room in what networks have freed, in exact mode all but one.
        """
        if len(self.chains) == 1:
            return 0
        scheme = self.chains[0][-1].recipe.labels
        pieces = len(self.chains) - 1 + AVERAGED_PIECES * self.course.exact
        if companions_asked(scheme, self.params):
            pieces += 2  # scores that are made of the mean
        return pieces * scheme.heads * max(row_voxels, BLOCK_VOXELS) * SINGLE
