"""Plans of a small cascade."""

from __future__ import annotations

import numpy as np


def cascaded(plans, *, axes=(0, 1, 2)):
    """Change the plans of tiny-tomo to those of a cascade, in place."""
    fine = plans["configurations"]["3d_fullres"]
    fine.update(patch_size=[24, 32, 16], spacing=[8.0, 8.0, 8.0])
    coarse = {"inherits_from": "3d_fullres", "patch_size": [16, 24, 32], "spacing": [17.0, 17.0, 17.0]}
    plans["configurations"]["3d_lowres"] = {**coarse, "next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["transpose_forward"] = list(axes)
    plans["transpose_backward"] = [int(axis) for axis in np.argsort(axes)]
