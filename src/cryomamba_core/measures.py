"""Physical measures of each label of a mask."""

from __future__ import annotations

from attrs import frozen

from cryomamba_core.geometry import Region, Vector3


@frozen(kw_only=True)
class LabelStatistics:
    """One label, measured.

    Attributes
    ----------
    value, name
        The label.
    voxels
        How many voxels carry it.
    volume_nm3
        Their volume in nm³.
    surface_area_nm2
        Area of the border between the label and everything else in nm²; the faces of the volume
        itself are no border.
    components
        Number of pieces, voxels being neighbours if they share a face, an edge or a corner.
    bounding_box
        The smallest region that holds them all, in voxels; None if there are none.
    centroid
        Mean position (z, y, x) in Å; None if there are none.
    """

    value: int
    name: str
    voxels: int
    volume_nm3: float
    surface_area_nm2: float
    components: int
    bounding_box: Region | None
    centroid: Vector3 | None
