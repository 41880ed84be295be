"""What a run needs of memory and disk, whatever it does with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import frozen

from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.memory import Need, Place, Way, peak_bytes
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.uncertainty import uncertainty_bytes


@frozen(kw_only=True)
class Costs:
    """Bytes that a run needs.

    Attributes
    ----------
    stages
        Its sweeps.
    uncertain
        Whether it measures how uncertain labels are.
    """

    stages: Sequence[Stage]
    uncertain: bool

    @property
    def course(self) -> Course:
        """How the run goes."""
        return self.stages[-1].course

    def ram(self, way: Way) -> int:
        """Of the host's memory, at the peak."""
        return self._peak([stage.ram(way) for stage in self.stages]) + self._beside[0]

    def vram(self, place: Place, batch: int) -> int:
        """Of the device's memory, with so many tiles at once; nothing on the CPU."""
        return self._peak([stage.vram(place, batch) for stage in self.stages]) + self._beside[1]

    @property
    def sums(self) -> int:
        """Of the disk, where sums lie there."""
        each = [stage.sums_bytes for stage in self.stages]
        return max(each) if self.stages[-1].follows_all else sum(each)

    @property
    def hint(self) -> str:
        """What makes a run need less."""
        ways = ["cut the volume along its shorter axes (cutting the longest saves nothing)"]
        if self.course.exact:
            ways.append("use mode=fast")
            if any(len(stage.folds) > 1 for stage in self.stages):
                ways.append("average fewer folds")
        return " or ".join([", ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]

    def _peak(self, needs: Sequence[Need]) -> int:
        """Of sweeps that take turns, or of the one that needs most where one begins when the other has ended.

        The networks of the first may be kept for a further job.
        """
        if not self.stages[-1].follows_all:
            return peak_bytes(needs)
        largest = max(peak_bytes([need]) for need in needs)
        return largest and largest + self.stages[0].weight_bytes

    @property
    def _beside(self) -> tuple[int, int]:
        if not self.uncertain:
            return 0, 0
        last = self.stages[-1]
        return uncertainty_bytes(math.prod(last.change.source[1:]), device=last.course.device)
