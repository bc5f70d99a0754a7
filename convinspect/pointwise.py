"""Where the stand-ins of `convinspect.modules` lived before; models that were pickled whole name this module."""

from __future__ import annotations

from convinspect.modules.pointwise import (
    ChannelsFirstLinear,
    PointwiseConv1d,
    PointwiseConv2d,
    PointwiseConv3d,
    PointwiseLinear,
)

__all__ = [
    "ChannelsFirstLinear",
    "PointwiseConv1d",
    "PointwiseConv2d",
    "PointwiseConv3d",
    "PointwiseLinear",
]
