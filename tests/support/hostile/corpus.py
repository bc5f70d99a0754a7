"""All hostile files by name.

HOSTILE    name → builder(tmp_path, marker)
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.hostile.arrays import NUMPY
from support.hostile.calls import BOMBS, bomb
from support.hostile.claims import CLAIMS
from support.hostile.containers import (
    LEGACY_PARTS,
    bare_file,
    distributed_folder,
    legacy_file,
    safetensors_file,
    zip_file,
)
from support.hostile.distcp import DISTCP, distcp
from support.hostile.distributed import described_tensor, distributed, distributed_key
from support.hostile.joblib_streams import JOBLIB, joblib_file
from support.hostile.large import LARGE
from support.hostile.legacy import legacy_claim, legacy_part, legacy_sources, legacy_with
from support.hostile.nested import NESTED
from support.hostile.opcodes import Builder, Value, beside_a_layer, get, integer, pickled, put, text
from support.hostile.others import (
    archive_in,
    legacy_then_zip,
    link_to_itself,
    nested_folders,
    pickle_then_zip,
    pipe,
    tar_in_lzma,
    tar_of_records,
    tar_with_pickles,
    zip_in_zip,
)
from support.hostile.plain_pickles import PICKLES, plain_pickle
from support.hostile.safetensors import (
    INDEXES,
    LENGTHS,
    SAFETENSORS,
    one_tensor,
    safetensors_names,
    shard_by_link,
    shard_index,
    sparse_safetensors,
)
from support.hostile.streams import BROKEN, STREAMS
from support.hostile.unpacked import KEYS, in_unpacked, unpacked_key, unpacked_link
from support.hostile.values import LARGE_VALUES, SHAPES, VALUES
from support.hostile.zips import ZIPS


def broken(tmp_path: Path, marker: Path, join: Callable[[bytes], bytes], place: str) -> Path:
    """A command and such an end, as the pickle of any container."""
    stream = join(bomb(marker))
    if place == "zip":
        return zip_file(tmp_path, stream)
    if place == "legacy":
        return legacy_file(tmp_path, object=stream)
    return bare_file(tmp_path, stream) if place == "bare" else distributed_folder(tmp_path, stream)


def in_zip(tmp_path: Path, marker: Path, make: Value) -> Path:
    """A value beside a sound kernel, in a zip."""
    return zip_file(tmp_path, beside_a_layer(make(marker)))


def in_legacy(tmp_path: Path, marker: Path, make: Value) -> Path:
    """The same before 1.6."""
    return legacy_file(tmp_path, object=beside_a_layer(make(marker)))


def in_bare(tmp_path: Path, marker: Path, make: Value) -> Path:
    """The same as a bare pickle."""
    return bare_file(tmp_path, beside_a_layer(make(marker)))


def alone_in_zip(tmp_path: Path, marker: Path, make: Value) -> Path:
    """A value that is all the checkpoint."""
    return zip_file(tmp_path, pickled(make(marker)))


def stream_in_zip(tmp_path: Path, marker: Path, stream: bytes) -> Path:
    """A whole pickle in a zip."""
    return zip_file(tmp_path, stream)


def stream_in_bare(tmp_path: Path, marker: Path, stream: bytes) -> Path:
    """A whole pickle as the file."""
    return bare_file(tmp_path, stream)


def stream_in_metadata(tmp_path: Path, marker: Path, stream: bytes) -> Path:
    """A whole pickle as a distributed checkpoint's `.metadata`."""
    return distributed_folder(tmp_path, stream)


def as_safetensors(tmp_path: Path, marker: Path, text: bytes, length: int | None = None) -> Path:
    """A header in a safetensors file with 96 bytes of data."""
    return safetensors_file(tmp_path, text, length=length)


def always(value: bytes) -> Value:
    """A value that needs no marker."""
    return lambda marker: value


def later(make: Callable[[], bytes]) -> Value:
    """The same, made only when asked for."""
    return lambda marker: make()


def _everywhere() -> dict[str, Builder]:
    """Each value and each stream in each container that it says something about."""
    builders: dict[str, Builder] = {}
    for name, make in BOMBS.items():
        builders[f"zip_bomb_{name}"] = partial(in_zip, make=make)
        builders[f"legacy_bomb_{name}"] = partial(in_legacy, make=make)
        builders[f"bare_bomb_{name}"] = partial(in_bare, make=make)
        builders[f"distributed_bomb_{name}"] = partial(distributed, make=make)
    values = {name: always(value) for name, value in VALUES.items()}
    for name, make in {**values, **{name: later(make) for name, make in LARGE_VALUES.items()}}.items():
        builders[f"zip_{name}"] = partial(in_zip, make=make)
        builders[f"legacy_{name}"] = partial(in_legacy, make=make)
        builders[f"alone_{name}"] = partial(alone_in_zip, make=make)
    for name in ("tuple_doubled", "dict_doubled", "list_in_itself", "dict_in_itself", "odd_keys", "escapes_in_class"):
        builders[f"distributed_{name}"] = partial(distributed, make=values[name])
    for name, size in SHAPES.items():
        builders[f"distributed_size_{name}"] = partial(distributed, make=always(described_tensor(size)))
    for name, stream in STREAMS.items():
        builders[f"zip_stream_{name}"] = partial(stream_in_zip, stream=stream)
        builders[f"bare_stream_{name}"] = partial(stream_in_bare, stream=stream)
        builders[f"distributed_stream_{name}"] = partial(stream_in_metadata, stream=stream)
        builders[f"legacy_stream_{name}"] = partial(legacy_with, part="object", stream=stream)
    for name, join in BROKEN.items():
        for place in ("zip", "legacy", "bare", "distributed"):
            builders[f"{place}_broken_{name}"] = partial(broken, join=join, place=place)
    return builders


HOSTILE: dict[str, Builder] = {
    **_everywhere(),
    **{f"zip_{name}": build for name, build in ZIPS.items()},
    **LARGE,
    **{f"legacy_bomb_as_{part}": partial(legacy_part, part=part) for part in LEGACY_PARTS},
    **{
        f"legacy_{part}_is_{name}": partial(legacy_with, part=part, stream=pickled(value))
        for part in LEGACY_PARTS[1:]
        for name, value in (("none", b"N"), ("huge", integer(10**400)), ("escape", text("\x1b[31m")))
    },
    "legacy_keys_are_numbers": partial(legacy_with, part="keys", stream=pickled(b"](K\x00K\x01e")),
    "legacy_keys_are_dicts": partial(legacy_with, part="keys", stream=pickled(b"](}}e")),
    "legacy_keys_repeat": partial(legacy_with, part="keys", stream=pickled(b"](" + text("0") * 1_000 + b"e")),
    "legacy_keys_unknown": partial(legacy_with, part="keys", stream=pickled(b"](" + text("7") + b"e")),
    "legacy_keys_in_themselves": partial(legacy_with, part="keys", stream=pickled(b"]" + put(1) + get(1) + b"a")),
    "legacy_sources": legacy_sources,
    "legacy_claim_2_62": partial(legacy_claim, numel=2**62),
    "legacy_claim_negative": partial(legacy_claim, numel=-24),
    "legacy_claim_smaller": partial(legacy_claim, numel=3),
    **{f"safetensors_{name}": partial(as_safetensors, text=raw) for name, raw in SAFETENSORS.items()},
    **{f"safetensors_{name}": partial(as_safetensors, text=one_tensor(), length=n) for name, n in LENGTHS.items()},
    "safetensors_names": safetensors_names,
    "safetensors_header_of_4_gb": sparse_safetensors,
    **{f"index_{name}": partial(shard_index, index=index) for name, index in INDEXES.items()},
    "index_shard_by_link": shard_by_link,
    **NUMPY,
    **{f"joblib_{name}": partial(joblib_file, make=make) for name, make in JOBLIB.items()},
    **{f"pickle_{name}": partial(plain_pickle, make=make) for name, make in PICKLES.items()},
    **{f"nested_{name}": build for name, build in NESTED.items()},
    **{f"distcp_{name}": partial(distcp, content=content) for name, content in DISTCP.items()},
    **{f"unpacked_bomb_{name}": partial(in_unpacked, make=make) for name, make in BOMBS.items()},
    **{f"unpacked_key_{name}": partial(unpacked_key, key=key) for name, key in KEYS.items()},
    **{
        f"unpacked_link_{name}": partial(unpacked_link, name=name) for name in ("storage", "pickle", "folder", "itself")
    },
    **{f"claims_{name}": build for name, build in CLAIMS.items()},
    "distributed_key_of_5_000_digits": partial(distributed_key, key=integer(10**5_000)),
    "distributed_key_is_none": partial(distributed_key, key=b"N"),
    "tar_of_records": tar_of_records,
    "tar_in_lzma": tar_in_lzma,
    "tar_of_pickles": partial(tar_with_pickles, form=tarfile.USTAR_FORMAT),
    "tar_of_pickles_pax": partial(tar_with_pickles, form=tarfile.PAX_FORMAT),
    "archive_7z": partial(archive_in, magic=b"7z\xbc\xaf\x27\x1c\0\4"),
    "archive_rar": partial(archive_in, magic=b"Rar!\x1a\7\1\0"),
    "archive_xz": partial(archive_in, magic=b"\xfd7zXZ\0"),
    "zip_in_zip": zip_in_zip,
    "pickle_then_zip": pickle_then_zip,
    "legacy_then_zip": legacy_then_zip,
    "pipe": pipe,
    "link_to_itself": link_to_itself,
    "nested_folders": nested_folders,
}
