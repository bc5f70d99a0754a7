"""Zip archives that lie, hide something or unpack to too much.

ZIPS    name → builder
"""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path

from support.hostile.archives import exported, exported_weight, torchscript
from support.hostile.calls import bomb
from support.hostile.containers import Member, deflated_repeat, raw_zip, stored, zip_of
from support.hostile.opcodes import (
    PAYLOAD,
    Builder,
    beside_a_layer,
    dict_of,
    integer,
    integers,
    pickled,
    storage,
    tensor,
    text,
)
from support.hostile.safetensors import NESTED_JSON, NESTED_OBJECTS


def disguised_pickle(tmp_path: Path, marker: Path, **claims: int) -> Path:
    """The evil pickle in a record with fields that PyTorch's reader passes over and a scanner's does not."""
    stream = beside_a_layer(bomb(marker))
    evil = Member("archive/data.pkl", [stream], len(stream), **claims)
    return raw_zip(tmp_path / "disguised.pt", [evil, stored("data/0", PAYLOAD), stored("version", b"3\n")])


def two_names(tmp_path: Path, marker: Path) -> Path:
    """The local header names another record than the directory does."""
    path = disguised_pickle(tmp_path, marker)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"archive/data.pkl", b"archive/data.txt", 1))
    return path


def name_by_extra(tmp_path: Path, marker: Path) -> Path:
    """Records beside a sound one whose names differ in case, by a null byte, by a separator or by code points."""
    sound = [stored("data.pkl", pickled(dict_of((text("conv.weight"), tensor())))), stored("data/0", PAYLOAD)]
    stream = beside_a_layer(bomb(marker))
    others = [
        stored(name, stream) for name in ("DATA.PKL", "data.pkl\0.txt", "./data.pkl", "data.pkl ", "dat\u0430.pkl")
    ]
    return raw_zip(tmp_path / "names.pt", sound + others)


def hidden_records(tmp_path: Path, marker: Path) -> Path:
    """Pickles in records that no one lists."""
    stream = beside_a_layer(bomb(marker))
    names = ("extra/evil.pkl", ".data/serialization_id", "constants.pkl", "data/9", "attributes.pkl", ".format_version")
    sound = pickled(dict_of((text("conv.weight"), tensor())))
    return zip_of(tmp_path / "hidden.pt", {"data.pkl": sound, **dict.fromkeys(names, stream)})


def evil_byteorder(tmp_path: Path, marker: Path) -> Path:
    """A pickle where the byte order stands, and in the archive's comment."""
    path = zip_of(tmp_path / "order.pt", {"data.pkl": beside_a_layer(bomb(marker)), "byteorder": pickled(bomb(marker))})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = pickled(bomb(marker))
    return path


def two_data_pkl(tmp_path: Path, marker: Path) -> Path:
    """Two records of one name: what is looked at need not be what is loaded."""
    harmless, evil = pickled(dict_of((text("conv.weight"), tensor()))), beside_a_layer(bomb(marker))
    members = [stored("data.pkl", harmless), stored("data.pkl", evil), stored("data/0", PAYLOAD)]
    return raw_zip(tmp_path / "two.pt", members)


def two_archives(tmp_path: Path, marker: Path) -> Path:
    """Two folders in one zip, each a checkpoint."""
    members = [stored("data.pkl", beside_a_layer(bomb(marker))), stored("data/0", PAYLOAD)]
    other = [Member(member.name.replace("archive", "other"), member.packed, member.size) for member in members]
    return raw_zip(tmp_path / "two.pt", members + other)


def deflated_data_pkl(tmp_path: Path, marker: Path, unit: bytes, times: int, last: bytes) -> Path:
    """A pickle that unpacks to far more than the file holds."""
    pieces, size = deflated_repeat(unit, times, last)
    members = [Member("archive/data.pkl", pieces, size, method=8), stored("data/0", PAYLOAD)]
    return raw_zip(tmp_path / "deflated.pt", members)


def deflated_with_small_claim(tmp_path: Path, marker: Path) -> Path:
    """The directory claims 100 bytes; the record unpacks to 1 GB."""
    pieces, _ = deflated_repeat(b"N0" * 2**19, 1024, b"}.")
    members = [Member("archive/data.pkl", pieces, 100, method=8), stored("data/0", PAYLOAD)]
    return raw_zip(tmp_path / "deflated.pt", members)


def deflated_storage(tmp_path: Path, marker: Path) -> Path:
    """A storage record of 10 GB in 10 MB, by a tensor of that size."""
    pieces, size = deflated_repeat(bytes(2**20), 10 * 1024)
    count = size // 4
    held = storage(numel=integer(count))
    weight = tensor(integers(count // 64, 64, 1), integers(64, 1, 1), held_in=held)
    stream = pickled(dict_of((text("conv.weight"), weight)))
    members = [stored("data.pkl", stream), Member("archive/data/0", pieces, size, method=8)]
    return raw_zip(tmp_path / "deflated.pt", members)


def stored_hole(tmp_path: Path, marker: Path) -> Path:
    """A `data.pkl` of half a gigabyte that takes no room on the disk, and more memory than is allowed."""
    size = 2**29
    members = [Member("archive/data.pkl", [b"\x80\x02}"], size, hole=size - 3), stored("data/0", PAYLOAD)]
    return raw_zip(tmp_path / "hole.pt", members)


def odd_zip(tmp_path: Path, marker: Path, member: Member) -> Path:
    """An archive with one record that is not what it should be."""
    stream = pickled(dict_of((text("conv.weight"), tensor())))
    honest = {"archive/data.pkl": stored("data.pkl", stream), "archive/data/0": stored("data/0", PAYLOAD)}
    return raw_zip(tmp_path / "odd.pt", list({**honest, member.name: member}.values()))


def many_members(tmp_path: Path, marker: Path) -> Path:
    """20,000 empty records beside the real ones."""
    stream = pickled(dict_of((text("conv.weight"), tensor())))
    empty = [Member(f"archive/data/{index}", [], 0) for index in range(1, 20_000)]
    return raw_zip(tmp_path / "many.pt", [stored("data.pkl", stream), stored("data/0", PAYLOAD), *empty])


def byteorder(tmp_path: Path, marker: Path, order: bytes) -> Path:
    """A byte order that no machine has."""
    stream = pickled(dict_of((text("conv.weight"), tensor())))
    return zip_of(tmp_path / "order.pt", {"data.pkl": stream, "byteorder": order})


ZIPS: dict[str, Builder] = {
    "flag_encrypted": partial(disguised_pickle, flags=1),
    "flag_patched": partial(disguised_pickle, flags=1 << 5),
    "flag_strongly_encrypted": partial(disguised_pickle, flags=1 << 6 | 1),
    "flag_utf8": partial(disguised_pickle, flags=1 << 11),
    "flag_masked": partial(disguised_pickle, flags=1 << 13),
    "flag_descriptor": partial(disguised_pickle, flags=1 << 3),
    "size_claimed_smaller": partial(disguised_pickle, packed_size=5),
    "two_names": two_names,
    "names_alike": name_by_extra,
    "hidden_records": hidden_records,
    "evil_byteorder": evil_byteorder,
    "two_data_pkl": two_data_pkl,
    "two_archives": two_archives,
    "deflated_10_gb": partial(deflated_data_pkl, unit=b"N0" * 2**19, times=10 * 1024, last=b"}."),
    "deflated_zeros": partial(deflated_data_pkl, unit=bytes(2**20), times=10 * 1024, last=b"."),
    "deflated_64_mb_of_dicts": partial(deflated_data_pkl, unit=b"}" * 2**20, times=64, last=b"."),
    "deflated_with_small_claim": deflated_with_small_claim,
    "deflated_storage": deflated_storage,
    "stored_hole": stored_hole,
    "many_members": many_members,
    "member_past_end": partial(odd_zip, member=Member("archive/data/0", [PAYLOAD], 96, offset=2**31)),
    "member_larger_than_file": partial(odd_zip, member=Member("archive/data/0", [PAYLOAD], 2**40, 2**40)),
    "pickle_larger_than_file": partial(odd_zip, member=Member("archive/data.pkl", [b"\x80\x02}."], 2**40, 2**40)),
    "member_of_2_63": partial(odd_zip, member=Member("archive/data/0", [PAYLOAD], 2**63, 2**63)),
    "member_encrypted": partial(odd_zip, member=Member("archive/data.pkl", [b"\x80\x02}."], 4, flags=1)),
    "member_by_unknown_method": partial(odd_zip, member=Member("archive/data.pkl", [b"\x80\x02}."], 4, method=99)),
    "member_not_deflated": partial(odd_zip, member=Member("archive/data.pkl", [b"\xff" * 64], 64, method=8)),
    "member_without_name": partial(odd_zip, member=Member("", [b"x"], 1)),
    "member_named_outside": partial(odd_zip, member=Member("archive/../../evil", [b"x"], 1)),
    "member_named_with_escapes": partial(odd_zip, member=Member("archive/\x1b[31m[bold]\n", [b"x"], 1)),
    "byteorder_middle": partial(byteorder, order=b"middle"),
    "byteorder_escape": partial(byteorder, order=b"\x1b[31m\xff[bold]"),
    "byteorder_5_mb": partial(byteorder, order=b"little" * 800_000),
    "torchscript": torchscript,
    "exported": partial(exported, config=exported_weight()),
    "exported_outside": partial(exported, config=exported_weight(path_name="../../../../../etc/passwd")),
    "exported_path_number": partial(exported, config=exported_weight(path_name=7)),
    "exported_size_huge": partial(exported, config=exported_weight(size=10**30)),
    "exported_size_text": partial(exported, config=exported_weight(size="\x1b[31m")),
    "exported_size_negative": partial(exported, config=exported_weight(size=-4)),
    "exported_dtype_unknown": partial(exported, config=exported_weight(dtype=10**6)),
    "exported_dtype_text": partial(exported, config=exported_weight(dtype="\x1b[31m")),
    "exported_config_nested": partial(exported, config=NESTED_JSON),
    "exported_config_list": partial(exported, config=b"[1, 2]"),
    "exported_config_text": partial(exported, config=b'{"config": "x"}'),
    "exported_model_nested": partial(exported, config=exported_weight(), model=NESTED_OBJECTS),
    "exported_model_list": partial(exported, config=exported_weight(), model=b'{"graph_module": [1]}'),
}
