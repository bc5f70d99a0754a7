"""Names of Caffe2's model zoo, which Detectron's and Detectron2's `.pkl` files have.

A layer's tensors are blobs without dots: `conv1_w` and `conv1_b` of a convolution, (out, in, kernel…), or of a fully
connected layer, (out, in); `res2_0_branch2a_bn_s`, `_bn_b`, `_bn_rm` and `_bn_riv` of a norm. Detectron2's
`convert_basic_c2_names` reads them as `.weight`, `.bias`, `.norm.weight`, …, without turning any axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

NAMED_SO = "Caffe2 names: _w is a weight, _b a bias, _s a norm's weight"
_LEAVES = {
    "w": "weight", "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias", "rm": "running_mean",
    "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
_OF_NORM = re.compile(r"(.+_[bg]n|[bg]n)_(s|b|gamma|beta|rm|riv|running_mean|running_var)", re.DOTALL)
_PLAIN = re.compile(r"(.+)_([wb])", re.DOTALL)
_MARKS = re.compile(r".*_[bg]n_(s|riv|gamma)|.*branch2a_w|.*_momentum|pred_w|fc\d+_w|conv\d+(_\d+)?_w", re.DOTALL)


def is_so_named(keys: Iterable[str]) -> bool:
    """Whether the names are those of Caffe2: none has a dot, and some are such as its zoo has."""
    marked = False
    for key in keys:
        if "." in key:
            return False
        marked = marked or (key[-1:] in "wsvam" and _MARKS.fullmatch(key) is not None)
    return marked


def split(key: str) -> tuple[str, str] | None:
    """The layer's name and what PyTorch calls the tensor; None where it is not a part of a layer."""
    found = _OF_NORM.fullmatch(key) or _PLAIN.fullmatch(key)
    return (found[1], _LEAVES[found[2]]) if found else None
