"""Writes the list of what is recognized, from the tables in the code: `python docs/what_is_this_file.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from convinspect.formats.unsupported import kinds
from convinspect.layouts import Maker
from convinspect.records import Container

ROOT = Path(__file__).resolve().parent.parent
ABOUT = """# What is this file?

Made by `docs/what_is_this_file.py` from the tables in the code; do not edit.

The content of a file decides what it is, not its name. `convinspect FILE` says what it is, and every other command says
the same. Nothing in a file is run. What is read of each kind is in [formats.md](formats.md).
"""
WRITTEN_BY = {
    Container.TORCH_ZIP: "`torch.save` since PyTorch 1.6: a state_dict, a training checkpoint, a whole module",
    Container.TORCH_LEGACY: "`torch.save` before PyTorch 1.6, and since with `_use_new_zipfile_serialization=False`",
    Container.TORCH_SCRIPT: "`torch.jit.save`, also frozen, and for the lite interpreter (`.ptl`)",
    Container.EXPORTED: "`torch.export.save` (`.pt2`)",
    Container.SAFETENSORS: "`safetensors`, of any library",
    Container.PICKLE: "`pickle.dump`, cloudpickle or `paddle.save`: state_dicts, whole modules, NumPy arrays",
    Container.DISTRIBUTED: "`torch.distributed.checkpoint`: a folder with `.metadata`",
    Container.DISTRIBUTED_PART: "the same, one of its files (`*.distcp`) by itself: the pieces in it",
    Container.SCRIPT_UNPACKED: "`torch.jit.save`, unzipped: the same with `code/` and `constants.pkl`",
    Container.TORCH_UNPACKED: "the same, unzipped: a folder with `data.pkl` and `data/0`, `data/1`, …",
    Container.JOBLIB: "`joblib.dump`, plain, or compressed with zlib, gzip, bzip2, lzma or xz",
    Container.NUMPY_ARCHIVE: "`numpy.savez` and `numpy.savez_compressed`, also of JAX's and Flax's arrays",
    Container.NUMPY_ARRAY: "`numpy.save`",
}
SEVERAL = (
    ("an index (`*.index.json`) and its shards", "transformers, diffusers, accelerate"),
    ("numbered shards without an index (`model-00001-of-00003.safetensors`)", "the same, of which the index was lost"),
    ("shards of which each holds a part of each tensor", "`HuggingFaceStorageWriter` (`DCP_SHARDING_INFO`)"),
    ("any of them in a tar archive, compressed or not", "NeMo (`.nemo`), `tar`"),
    ("any of them in a zip archive", "ESPnet, TorchServe (`.mar`), diffusers (`.dduf`), `zip`"),
    ("any file of them compressed with gzip, bzip2, xz or zlib", "`gzip`, `bzip2`, `xz`"),
)


def page() -> str:
    """The page, in Markdown."""
    sections = [
        ("What is read", ("kind", "written by"), _read()),
        ("Whose order of axes is known", ("maker",), [(maker.value,) for maker in Maker]),
        ("Known by bytes at a fixed place", ("at", "bytes", "what", "what to do"), _magics()),
        ("Known by what is in it", ("what", "what to do"), _contents()),
        ("Compressed as a whole", ("what", "what to do", "with a tar inside"), _compressed()),
        ("Zip archives", ("a record", "what", "what to do"), _named((*kinds.ZIPS, *kinds.PACKAGES))),
        ("Folders", ("an entry", "what", "what to do"), _named(kinds.FOLDERS)),
    ]
    return "\n".join([ABOUT, *(_section(*section) for section in sections)])


def _section(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"## {title}", "", _row(columns), _row("---" for _ in columns)]
    return "\n".join([*lines, *map(_row, rows), ""])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _read() -> Iterator[tuple[str, str]]:
    yield from ((container.value, WRITTEN_BY[container]) for container in Container)
    yield from SEVERAL


def _magics() -> Iterator[tuple[str, ...]]:
    for magic in kinds.MAGICS:
        yield str(magic.at), f"`{repr(magic.magic)[2:-1]}`", magic.what, _remedy(magic.remedy)


def _contents() -> Iterator[tuple[str, str]]:
    texts = (kinds.LFS, kinds.HTML, kinds.OPENVINO, kinds.XML, kinds.KERAS_INDEX, kinds.JSON, kinds.TEXT)
    tensorflow = (kinds.TF_INDEX, kinds.TF_PART, kinds.TF_PART_ALONE)
    others = (kinds.MESSAGE_PACK, kinds.TAR, kinds.OLDEST, kinds.DISTCP, *tensorflow, kinds.UNKNOWN)
    for kind in (*texts, *kinds.PROTOBUFS, *kinds.PICKLES, *others):
        yield kind.what, _remedy(kind.remedy)


def _compressed() -> Iterator[tuple[str, str, str]]:
    for one in kinds.COMPRESSIONS:
        yield f"{one.name}-compressed", f"`{one.command} FILE{one.suffix} > FILE`", f"`{one.tar} FILE`"


def _named(table: Iterable[kinds.Named]) -> Iterator[tuple[str, str, str]]:
    for kind in table:
        yield f"`{kind.pattern}`", kind.what or "a model of another library", _remedy(kind.remedy)


def _remedy(text: str) -> str:
    return text.replace("{name}", "FILE")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "what-is-this-file.md"
    target.write_text(page(), encoding="utf-8")
