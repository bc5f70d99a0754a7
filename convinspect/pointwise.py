"""Where the stand-ins of `convinspect.modules` lived before; models that were pickled whole name this module."""

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
