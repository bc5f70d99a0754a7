"""Headers of safetensors files, and indexes of their shards.

SAFETENSORS    name → header
LENGTHS        name → what the file says of the header's length
INDEXES        name → index of shards
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from support.hostile.containers import safetensors_file
from support.hostile.streams import NAMES

NESTED_JSON = b"[" * 100_000
NESTED_OBJECTS = b'{"a":' * 100_000


def header(tensors: Mapping[str, object]) -> bytes:
    """A safetensors header."""
    return json.dumps(tensors).encode()


def entry(shape: object = (4, 6, 1), offsets: object = (0, 96), dtype: object = "F32") -> dict[str, object]:
    """One tensor of such a header; the defaults are sound."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one_tensor(**changes: object) -> bytes:
    """A header of one tensor, changed."""
    return header({"conv.weight": {**entry(), **changes}})


def sparse_safetensors(tmp_path: Path, marker: Path) -> Path:
    """A header of 4 GB that takes no room on the disk."""
    path = safetensors_file(tmp_path, b"", length=4 * 2**30)
    os.truncate(path, 5 * 2**30)
    return path


HALVES = {"a.weight": entry((2, 6), (0, 48)), "b.weight": entry((2, 6), (48, 96))}

SAFETENSORS: dict[str, bytes] = {
    "overlapping": header({"a.weight": entry((2, 6), (0, 48)), "b.weight": entry((3, 6), (24, 96))}),
    "same_bytes_twice": header({"a.weight": entry(), "b.weight": entry()}),
    "gap": header({"a.weight": entry((1, 6), (0, 24)), "b.weight": entry((2, 6), (48, 96))}),
    "bytes_left": header({"a.weight": entry((2, 6), (0, 48))}),
    "past_end": header({"a.weight": entry((8, 6), (0, 192))}),
    "offsets_negative": one_tensor(data_offsets=[-96, 0]),
    "offsets_reversed": one_tensor(data_offsets=[96, 0]),
    "offsets_huge": one_tensor(data_offsets=[2**62, 2**62 + 96]),
    "offsets_beyond_int64": one_tensor(data_offsets=[10**400, 10**400 + 96]),
    "offsets_three": one_tensor(data_offsets=[0, 48, 96]),
    "offsets_text": one_tensor(data_offsets=["0", "96"]),
    "offsets_float": one_tensor(data_offsets=[0.0, 96.0]),
    "offsets_null": one_tensor(data_offsets=None),
    "shape_too_large_for_offsets": one_tensor(shape=[5, 6, 1]),
    "shape_overflowing": one_tensor(shape=[2**32, 2**32, 1]),
    "shape_overflowing_to_fit": one_tensor(shape=[2**62, 6, 4]),
    "shape_beyond_int64": one_tensor(shape=[10**400]),
    "shape_negative": one_tensor(shape=[-4, -6, 1]),
    "shape_booleans": one_tensor(shape=[True, True, True]),
    "shape_float": one_tensor(shape=[4.0, 6.0, 1.0]),
    "shape_nan": one_tensor(shape=[float("nan"), float("inf"), 1]),
    "shape_text": one_tensor(shape=["\x1b[31m", "[bold]", 1]),
    "shape_nested": one_tensor(shape=[[4, 6], 1]),
    "shape_null": one_tensor(shape=None),
    "shape_of_20_000_dims": one_tensor(shape=[1] * 20_000),
    "dtype_unknown": one_tensor(dtype="F33"),
    "dtype_escape": one_tensor(dtype="\x1b[31m[bold]"),
    "dtype_number": one_tensor(dtype=7),
    "dtype_null": one_tensor(dtype=None),
    "entry_null": header({"conv.weight": None}),
    "entry_list": header({"conv.weight": [1, 2]}),
    "entry_empty": header({"conv.weight": {}}),
    "duplicate_keys": b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry((24,))).encode() + b"}",
    "metadata_not_strings": header({"__metadata__": {"a": 1, "b": [2]}, "conv.weight": entry()}),
    "metadata_list": header({"__metadata__": [1], "conv.weight": entry()}),
    "metadata_escapes": header({"__metadata__": {"\x1b[31m": "[bold]\r\n"}, "conv.weight": entry()}),
    "not_json": b"{not json at all     }",
    "not_utf8": b'{"\xff\xfe": 1}',
    "empty_header": b"",
    "list": b'["F32", [4, 6, 1]]',
    "number": b"7",
    "null": b"null",
    "two_values": b"{} {}",
    "nested_lists": NESTED_JSON,
    "nested_objects": NESTED_OBJECTS,
    "number_of_a_million_digits": b'{"w":{"dtype":"F32","shape":[' + b"9" * 10**6 + b'],"data_offsets":[0,96]}}',
    "utf16": '{"w": {}}'.encode("utf-16"),
}


def sharded(info: object) -> bytes:
    """A header of one tensor that says where in a whole it begins."""
    text = info if isinstance(info, str) else json.dumps(info)
    return header({"__metadata__": {"DCP_SHARDING_INFO": text}, "conv.weight": entry()})


def sharded_at(*begin: object) -> bytes:
    """The same, with one place in the form that PyTorch writes."""
    return sharded({"conv.weight": {"saved_offsets": begin}})


SAFETENSORS |= {
    "sharding_huge": sharded_at(2**63 - 1, 0, 0),
    "sharding_beyond_int64": sharded_at(10**400, 0, 0),
    "sharding_negative": sharded_at(-4, 0, 0),
    "sharding_of_other_rank": sharded_at(0, 0),
    "sharding_of_20_000_dims": sharded_at(*[1] * 20_000),
    "sharding_of_others": sharded({"\x1b[31m": {"saved_offsets": [4, 0, 0]}}),
    "sharding_float": sharded_at(0.5, 0, 0),
    "sharding_text": sharded_at("0", "0", "0"),
    "sharding_null": sharded({"conv.weight": {"saved_offsets": None}}),
    "sharding_list": sharded([1, 2]),
    "sharding_not_json": sharded("{"),
    "sharding_nested": sharded("[" * 100_000),
    "sharding_number_of_a_million_digits": sharded('{"conv.weight":{"saved_offsets":[' + "9" * 10**6 + "]}}"),
    "float6": one_tensor(dtype="F6_E2M3", data_offsets=[0, 18]),
    "float4_within_a_byte": one_tensor(dtype="F4", shape=[3], data_offsets=[0, 2]),
    "empty_within_another": header({"a.weight": entry(), "b.weight": entry((0,), (4, 4))}),
    "name_of_half_a_pair": header({"\ud800": entry()}),
}

LENGTHS: dict[str, int] = {"length_2_63": 2**63, "length_2_64": 2**64 - 1, "length_past_end": 10_000, "length_0": 0}


def safetensors_names(tmp_path: Path, marker: Path) -> Path:
    """Every one of `NAMES`, each over its own element."""
    entries = {name: entry((1,), (4 * index, 4 * index + 4)) for index, name in enumerate(NAMES)}
    return safetensors_file(tmp_path, header(entries), bytes(4 * len(NAMES)))


def shard_index(tmp_path: Path, marker: Path, index: bytes) -> Path:
    """A folder with two good shards, a file outside it, and this index."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    for name, key in (("one", "a.weight"), ("two", "b.weight")):
        safetensors_file(folder, header({key: entry()})).rename(folder / f"{name}.safetensors")
    safetensors_file(tmp_path, header({"a.weight": entry()})).rename(tmp_path / "outside.safetensors")
    (folder / "folder.safetensors").mkdir()
    path = folder / "model.safetensors.index.json"
    # An absolute path can be told only when the folder is there.
    path.write_bytes(index.replace(b"@", str(tmp_path).encode()))
    return path


def weight_map(**shards: object) -> bytes:
    """An index that sends the two tensors elsewhere."""
    names = {"a.weight": shards.get("a", "one.safetensors"), "b.weight": shards.get("b", "two.safetensors")}
    return json.dumps({"metadata": {"total_size": 192}, "weight_map": names}).encode()


INDEXES: dict[str, bytes] = {
    "outside": weight_map(a="../outside.safetensors"),
    "outside_by_detour": weight_map(a="folder.safetensors/../../outside.safetensors"),
    "outside_by_backslash": weight_map(a="..\\outside.safetensors"),
    "absolute": weight_map(a="@/outside.safetensors"),
    "shard_missing": weight_map(a="three.safetensors"),
    "tensor_missing": weight_map(a="two.safetensors"),
    "shard_is_folder": weight_map(a="folder.safetensors"),
    "shard_is_index": weight_map(a="model.safetensors.index.json"),
    "shard_is_here": weight_map(a="."),
    "shard_is_empty": weight_map(a=""),
    "shard_is_number": weight_map(a=7),
    "shard_is_null": weight_map(a=None),
    "shard_with_null_byte": weight_map(a="one\0.safetensors"),
    "shard_with_surrogate": weight_map(a="\ud800.safetensors"),
    "shard_with_escapes": weight_map(a="\x1b[31m[bold]\r\n.safetensors"),
    "shard_with_long_name": weight_map(a="a" * 5_000),
    "map_is_list": b'{"weight_map": ["one.safetensors"]}',
    "map_is_absent": b'{"metadata": {}}',
    "map_is_empty": b'{"weight_map": {}}',
    "index_is_list": b"[]",
    "index_is_nested": NESTED_JSON,
    "index_is_cut": weight_map()[:-20],
    "index_is_not_utf8": b"\xff\xfe{}",
    "index_is_empty": b"",
    "total_size_is_text": weight_map().replace(b"192", b'"\\u001b[31m"'),
    "names": json.dumps({"weight_map": dict.fromkeys(NAMES, "one.safetensors")}).encode(),
}


def shard_by_link(tmp_path: Path, marker: Path) -> Path:
    """A shard that is a link to a file outside; a download cache is made of such links."""
    path = shard_index(tmp_path, marker, weight_map(a="link.safetensors"))
    (path.parent / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    return path
