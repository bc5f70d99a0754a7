"""What a layer may be, or need, other than it seems: doubts that decisions ask for and that users are shown."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convinspect.records import Tensor


class Doubt(Enum):
    """What a layer may be, or need, other than it seems; the values are sentences for people.

    Decisions ask for the member. `{weight}` and `{bias}` in a sentence are shapes, `{dims}` the kernel's dimensions and
    `{first}` the weight's first size.
    """

    MAY_BE_TRANSPOSED = "square, in a file that also has transformers' Conv1D: it may be stored transposed"
    SQUARE_MAY_BE_LINEAR = "square, so only its name says that it is transformers' Conv1D; it may be a Linear"
    MAY_BE_LINEAR = "only its name says that it is transformers' Conv1D; it may be a Linear"
    LINEAR_OR_EMBEDDING = "without a bias, a Linear and an Embedding look alike"
    LINEAR_BY_NAME = "a Linear by its name, though an Embedding has the same shape"
    WITHIN_EMBEDDING = "without a bias, a Linear and an Embedding look alike, and what it is part of is named Embedding"
    EMBEDDING_OR_LINEAR = "named like an Embedding; a Linear without bias has the same shape"
    NORM_OR_PRELU = "LayerNorm, GroupNorm, RMSNorm and PReLU look alike"
    PRELU_OR_NORM = "a PReLU by its name, or as it is one number; a norm without bias has the same shapes"
    MAY_BE_BILINEAR = "it may be a Bilinear (out, in1, in2), which its name suggests and its shapes do not tell"
    MAY_BE_CONV_TRANSPOSE = "it may be a ConvTranspose{dims}d, which its name suggests and its shapes do not tell"
    MAY_BE_DEPTHWISE = "{weight} reads as depthwise (groups = {first}) as well as 1 → many"
    USUALLY_STRIDE_2 = "layers of this name usually have stride 2"
    LAYOUT = "{weight} is read in another library's layout, which the file does not settle"
    NORM_DIM = "spectral norm's dim is not recorded, and its u fits several dimensions of the weight"
    PADDED = "the layer pads its input before the convolution, by how much the graph does not tell"
    MAY_BE_PADDED = "its input is padded just before, by this layer or by another"
    CALLS_DIFFER = "its weight is given to several calls with different settings"
    SUPERSEDED = "an integer _frozen_param of its shape stands beside it, which the quantized graph reads in its place"
    BIAS_DOES_NOT_FIT = "its bias {bias} does not fit its weight {weight}"

    def sentence(self, weight: Tensor, bias: Tensor | None, first: int | None = None) -> str:
        """The doubt about a layer with this weight and bias, in words; `first`: its outputs, where not first."""
        if "{" not in self.value:
            return self.value
        shape = weight.shape
        return self.value.format(weight=shape, bias=bias and bias.shape, dims=len(shape) - 2, first=first or shape[0])
