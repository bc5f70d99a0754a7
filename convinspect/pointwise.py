"""Aliases of the classes in `convinspect.modules.pointwise`, for models that were pickled whole under this name.

What counts as a pointwise layer in a file is decided in `convinspect.layers`.
"""

from __future__ import annotations

from convinspect.modules.pointwise import (
    ChannelsFirstLinear,
    PointwiseConv1d,
    PointwiseConv2d,
    PointwiseConv3d,
    PointwiseLinear,
    _Positions,  # Not public, but every pickled stand-in names it.
)

__all__ = [
    "ChannelsFirstLinear",
    "PointwiseConv1d",
    "PointwiseConv2d",
    "PointwiseConv3d",
    "PointwiseLinear",
    "_Positions",
]
