"""What a checkpoint's tensors can be kept in."""

from __future__ import annotations

from enum import Enum

from convinspect.text import plural

WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt2", ".jit", ".ptl", ".pth.tar", ".pt.tar")
ARRAYS = (".pdparams", ".pkl", ".pickle", ".joblib", ".npz", ".npy")
ARCHIVES = (".nemo", ".mar", ".tar", ".zip", ".gz", ".tgz", ".xz", ".bz2", ".dduf")
"""How names of checkpoints end: what is most likely a model's weights, what may hold other things, what holds files."""


class Container(Enum):
    """What keeps a checkpoint's tensors; the values are what users are shown."""

    TORCH_ZIP = "torch.save (zip)"
    TORCH_LEGACY = "torch.save (before 1.6)"
    TORCH_SCRIPT = "TorchScript"
    EXPORTED = "torch.export (.pt2)"
    SAFETENSORS = "safetensors"
    DISTRIBUTED = "distributed checkpoint"
    DISTRIBUTED_PART = "file of a distributed checkpoint"
    TORCH_UNPACKED = "torch.save (unpacked)"
    SCRIPT_UNPACKED = "TorchScript (unpacked)"
    PICKLE = "pickle"
    JOBLIB = "joblib"
    NUMPY_ARCHIVE = "NumPy archive (.npz)"
    NUMPY_ARRAY = "NumPy array (.npy)"

    @property
    def torch_save(self) -> bool:
        """Whether `torch.save` wrote it, now or before PyTorch 1.6."""
        return self in (Container.TORCH_ZIP, Container.TORCH_LEGACY)

    @property
    def holds_code(self) -> bool:
        """Whether a program stands beside the tensors, with their shapes in it, whatever else the file records."""
        return self in (Container.TORCH_SCRIPT, Container.SCRIPT_UNPACKED, Container.EXPORTED)

    @property
    def keeps_order(self) -> bool:
        """Whether its tensors lie in an order that means something: that of the modules' definition, as a rule."""
        return self not in _UNORDERED

    @property
    def rewritten(self) -> bool:
        """Whether `convert` gives it another header; the tensors of the others are written in another format."""
        return self not in _READ_ALONE

    def label(self, shards: int = 0, within: str = "") -> str:
        """What users are shown.

        Args:
            shards: Into how many files the checkpoint is split, 0 when it is not.
            within: What holds the file, where it lies in an archive, with its article; else "".
        """
        parts = [self.value, *([plural(shards, "shard")] if shards else []), *([f"in {within}"] if within else [])]
        return ", ".join(parts)


_READ_ALONE = (
    Container.DISTRIBUTED_PART,
    Container.TORCH_UNPACKED,
    Container.SCRIPT_UNPACKED,
    Container.PICKLE,
    Container.JOBLIB,
    Container.NUMPY_ARCHIVE,
    Container.NUMPY_ARRAY,
)

_UNORDERED = (
    Container.SAFETENSORS,
    Container.DISTRIBUTED,
    Container.DISTRIBUTED_PART,
    Container.NUMPY_ARCHIVE,
)
"""Their writers sort by size, by name as text, or not at all."""
