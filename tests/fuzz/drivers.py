"""The drivers: each makes, from the fixtures and a random generator, one file or folder that may be anything.

DRIVERS    name → driver(random, folder): writes into the empty `folder` and returns what is to be opened
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random

import json_mutations
import pickle_mutations
import zip_mutations
from array_drivers import arrays, joblib
from nested_driver import in_archive, nested
from pickle_driver import plain
from pickle_mutations import number, text
from server_driver import fault_of_server, servers

from support.paths import FIXTURES

Driver = Callable[[Random, Path], Path]


@lru_cache(maxsize=1)
def zips() -> list[bytes]:
    """Every fixture that is a zip."""
    return [path.read_bytes() for path in sorted(FIXTURES.rglob("*")) if path.is_file() and zipfile.is_zipfile(path)]


@lru_cache(maxsize=1)
def _archives() -> list[zip_mutations.Archive]:
    return [zip_mutations.opened(content) for content in zips()]


@lru_cache(maxsize=1)
def streams() -> list[bytes]:
    """Every fixture's pickles."""
    inside = [one.data for archive in _archives() for one in archive.records if one.name.endswith(b"data.pkl")]
    old = [part for content in _old() for part in _parted(content)[0]]
    return [*inside, *old, _metadata()]


@lru_cache(maxsize=1)
def _old() -> list[bytes]:
    return [path.read_bytes() for path in sorted(FIXTURES.glob("*legacy*.pt"))]


@lru_cache(maxsize=1)
def _safetensors() -> list[bytes]:
    return [path.read_bytes() for path in sorted(FIXTURES.glob("*.safetensors"))]


@lru_cache(maxsize=1)
def _metadata() -> bytes:
    return (FIXTURES / "distributed" / ".metadata").read_bytes()


@lru_cache(maxsize=32)
def _parted(content: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """The five pickles of a file from before 1.6, and its storages."""
    parts, rest = [], content
    for _ in range(5):
        pieces = pickle_mutations.instructions(rest)
        stop = pieces.index(b".") + 1
        parts.append(b"".join(pieces[:stop]))
        rest = rest[len(parts[-1]) :]
    return tuple(parts), rest


def _file(folder: Path, content: bytes, name: str = "model.pt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def walker(random: Random, folder: Path) -> Path:
    """A changed pickle in a sound zip, packed or not."""
    archive = zip_mutations.copied(random.choice(_archives()))
    for record in archive.records:
        if record.name.endswith(b"/data.pkl"):
            record.data = pickle_mutations.mutated(random, record.data, streams())
            record.method = random.choice((0, 0, 0, 8))
    return _file(folder, zip_mutations.written(archive))


def zip_container(random: Random, folder: Path) -> Path:
    """A zip whose fields are changed; sometimes a record that is text, too."""
    archive = zip_mutations.copied(random.choice(_archives()))
    if random.random() < 0.3:
        record = random.choice(archive.records)
        if record.name.endswith(b".json"):
            record.data = json_mutations.mutated(random, record.data)
        elif record.name.endswith(b".py"):
            record.data = _source(random, record.data)
    return _file(folder, zip_mutations.mutated(random, archive), random.choice(("model.pt", "model.pt2")))


def source_text(random: Random, folder: Path) -> Path:
    """A TorchScript archive with changed code, or a `.pt2` with changed descriptions; the zip is sound."""
    told = [one for one in _archives() if any(r.name.endswith((b".py", b".json")) for r in one.records)]
    archive = zip_mutations.copied(random.choice(told))
    for record in archive.records:
        if record.name.endswith(b".json"):
            record.data = json_mutations.mutated(random, record.data)
        elif record.name.endswith(b".py") and random.random() < 0.5:
            record.data = _source(random, record.data)
    return _file(folder, zip_mutations.written(archive))


_CODE = (
    *(b"(" * 90, b"(" * 20_000, b"[" * 500, b"-" * 5_000 + b"1", b"class A(", b"1+" * 3_000 + b"1", b"\0", b"\xff"),
    *(b"stride : Final[Tuple[int]] = (1, )", b"groups : Final[int] = " + b"9" * 6_000, b"a." * 3_000 + b"b", b"\t \t"),
    *(b"groups : Final[int] = {}", b"padding : Final[str] = ''", b"torch._convolution(a, b, c, [1], [0], [1], False)"),
    *(b"lambda: " * 400 + b"0", b"f'{" * 80, b"0x" + b"f" * 9_000, b"\\\n" * 2_000, b"stride : Final[int] = [[1], {}]"),
)


def _source(random: Random, code: bytes) -> bytes:
    lines = code.split(b"\n")
    for _ in range(random.randint(1, 4)):
        at, other = random.randrange(len(lines)), random.randrange(len(lines))
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        lines[at] = random.choice((lines[other], indent + random.choice(_CODE), b"", lines[at][1:], lines[at] * 2))
    return b"\n".join(lines)


def legacy(random: Random, folder: Path) -> Path:
    """The stream of before 1.6: its pickles and the storages' counts changed."""
    found, storages = _parted(random.choice(_old()))
    parts = list(found)
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        at, other = random.randrange(len(parts)), random.randrange(len(parts))
        action = random.randrange(6)
        if action < 3:
            parts[at] = pickle_mutations.mutated(random, found[at], streams())
        elif action == 3:
            parts[at] = random.choice((b"", parts[other], parts[at] * 2))
        elif action == 4:
            parts[at] = b"\x80\x02" + pickle_mutations.instruction(random) + b"."
        else:
            names = [text(str(number(random))) for _ in range(random.choice((0, 1, 3)))]
            parts[-1] = b"\x80\x02](" + b"".join(names) + b"e."
    if random.random() < 0.5:
        at = random.choice((0, random.randrange(len(storages) + 1)))
        count = struct.pack("<Q", number(random) % 2**64)
        storages = random.choice((storages[:at], storages[:at] + count + storages[at + 8 :], storages + count))
    return _file(folder, b"".join(parts) + storages)


def safetensors(random: Random, folder: Path) -> Path:
    """A safetensors file with a changed header, length or payload."""
    return _file(folder, _changed_safetensors(random, random.choice(_safetensors())), "model.safetensors")


def _changed_safetensors(random: Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header, payload = content[8 : 8 + length], content[8 + length :]
    if random.random() < 0.85:
        header = json_mutations.mutated(random, header)
    if random.random() < 0.15:
        header = random.choice((header + b" " * 500, b" " + header, header[:-1], header + b"{}", header + b"\0" * 8))
    if random.random() < 0.15:
        payload = random.choice((b"", payload[: random.randint(0, len(payload))], payload + b"\0"))
    claimed = number(random) % 2**64 if random.random() < 0.1 else len(header) + random.choice((0, 0, 0, 0, 1, -1))
    return struct.pack("<Q", claimed % 2**64) + header + payload


def index(random: Random, folder: Path) -> Path:
    """A shard index with changed paths, totals and maps, sometimes over changed shards."""
    source = FIXTURES / random.choice(("sharded", "sharded_bin"))
    path = folder / "sharded"
    path.mkdir()
    (path / "folder").mkdir()
    for one in source.iterdir():
        content = one.read_bytes()
        if one.suffix == ".json":
            content = json_mutations.mutated(random, content) if random.random() < 0.9 else content[:-3]
        elif random.random() < 0.1:
            content = _changed_shard(random, content)
        if random.random() < 0.95:
            (path / one.name).write_bytes(content)
    listed = next((one for one in path.iterdir() if one.suffix == ".json"), path)
    return random.choice((path, listed))


def _changed_shard(random: Random, content: bytes) -> bytes:
    if content[:2] == b"PK":
        return zip_mutations.mutated(random, zip_mutations.opened(content))
    return _changed_safetensors(random, content)


def pieces(random: Random, folder: Path) -> Path:
    """A folder of shards of tensors, or one of them, whose sharding record, shapes or bytes lie."""
    path = folder / "pieces"
    path.mkdir()
    for one in (FIXTURES / "parallel" / "pieces").iterdir():
        content = one.read_bytes()
        if random.random() < 0.8:
            content = _changed_sharding(random, content)
        if random.random() < 0.2:
            content = _changed_safetensors(random, content)
        if random.random() < 0.95:
            (path / one.name).write_bytes(content)
    listed = next((one for one in path.iterdir() if one.suffix == ".safetensors"), path)
    return random.choice((path, path, listed))


def _changed_sharding(random: Random, content: bytes) -> bytes:
    """The file with another `DCP_SHARDING_INFO`, which is JSON within its header's JSON."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    info = header["__metadata__"]["DCP_SHARDING_INFO"]
    header["__metadata__"]["DCP_SHARDING_INFO"] = json_mutations.mutated(random, info.encode()).decode("latin-1")
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + content[8 + length :]


def wrapper(random: Random, folder: Path) -> Path:
    """A changed pickle of DTensors, whose parts and specifications may be anything, in a sound zip."""
    source = random.choice(sorted((FIXTURES / "parallel").glob("*.pt")))
    archive = zip_mutations.opened(source.read_bytes())
    for record in archive.records:
        if record.name.endswith(b"/data.pkl"):
            record.data = pickle_mutations.mutated(random, record.data, [record.data, *streams()[:20]])
    return _file(folder, zip_mutations.written(archive))


def distributed(random: Random, folder: Path) -> Path:
    """A distributed checkpoint with a changed `.metadata`."""
    path = folder / "distributed"
    path.mkdir()
    (path / ".metadata").write_bytes(pickle_mutations.mutated(random, _metadata(), streams()))
    if random.random() < 0.5:
        (path / "__0_0.distcp").write_bytes(bytes(random.choice((0, 96))))
    return random.choice((path, path / ".metadata"))


@lru_cache(maxsize=1)
def _distcp() -> bytes:
    return b"".join(path.read_bytes() for path in sorted((FIXTURES / "distributed").glob("*.distcp")))


def distcp(random: Random, folder: Path) -> Path:
    """A file of a distributed checkpoint by itself: pieces changed, in any order, cut, or with others between them."""
    whole = _distcp()
    starts = [0, *(at for at in range(1, len(whole)) if whole.startswith(b"PK\5\6", at - 22))]
    pieces = [whole[start:end] for start, end in zip(starts, [*starts[1:], len(whole)], strict=True)]
    pieces = random.choices([piece for piece in pieces if piece], k=random.choice((1, 2, 5)))
    for at, piece in enumerate(pieces):
        if random.random() < 0.4 and piece[:2] == b"PK":
            pieces[at] = zip_mutations.mutated(random, zip_mutations.opened(piece))
    if random.random() < 0.2:
        pieces.insert(random.randrange(len(pieces) + 1), random.choice((*zips(), *_safetensors(), bytes(9))))
    content = b"".join(pieces)
    if random.random() < 0.3:
        content = content[: random.randint(0, len(content))]
    if random.random() < 0.3:
        (folder / ".metadata").write_bytes(pickle_mutations.mutated(random, _metadata(), streams()))
    return _file(folder, content, "__0_0.distcp")


def unpacked(random: Random, folder: Path) -> Path:
    """An unpacked file of torch.save whose pickles or files are changed, or gone."""
    path = folder / "unpacked"
    for record in random.choice(_archives()).records:
        name = record.name.decode("utf-8", "replace").partition("/")[2]
        if not name or name.endswith("/") or ".." in name:
            continue
        data = record.data
        if name.endswith(".pkl"):
            data = pickle_mutations.mutated(random, data, streams())
        elif name.endswith(".py"):
            data = _source(random, data)
        elif random.random() < 0.1:
            data = random.choice((b"", data[:-1], data * 2))
        if random.random() < 0.97:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    path.mkdir(exist_ok=True)
    return random.choice((path, path, path / "data.pkl" if (path / "data.pkl").exists() else path))


def folder_in_archive(random: Random, folder: Path) -> Path:
    """A tar or zip archive in which a folder is a checkpoint: an unpacked file of torch.save, or a distributed one."""
    if random.random() < 0.5:
        unpacked(random, folder)
        return in_archive(random, folder, folder / "unpacked")
    distributed(random, folder)
    if random.random() < 0.7:
        (folder / "distributed" / "__0_0.distcp").write_bytes(_distcp())
    if random.random() < 0.6:
        (folder / "distributed" / ".metadata").write_bytes(_metadata())
    return in_archive(random, folder, folder / "distributed")


_STARTS = (
    *(
        b"\x08",
        b"\x80\2",
        b"\x80\4\x95",
        b"PK\3\4",
        b"PK\5\6",
        b"{",
        b"[",
        b"<html",
        b"<?xml",
        b"GGUF",
        b"ustar",
        b"\0" * 512,
    ),
    *(b"version https://git-lfs.github.com/spec/v1\nsize 9", b"]\0\0\x80\0", b"\x1f\x8b\x08", b"BZh9", b"\xef\xbb\xbf"),
    *(
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        b"L119547037146038801333356L\n.",
        bytes(148) + b"000400\0 ",
        b"\x10\0\0\0\0\0\0\0{",
    ),
)


def stranger(random: Random, folder: Path) -> Path:
    """What begins as something known and is short, foreign or cut."""
    content = random.choice(_STARTS)
    content = content[: random.randint(0, len(content))] if random.random() < 0.3 else content
    rest = random.choice(
        (random.randbytes(random.choice((0, 1, 2, 30, 2_000))), *streams(), *_safetensors(), b" " * 99)
    )
    content += rest[: random.randint(0, len(rest))]
    return _file(
        folder, content, random.choice(("model.pt", "model.safetensors", "x.index.json", "x.pth.tar", ".metadata"))
    )


@lru_cache(maxsize=1)
def _small() -> list[bytes]:
    """Fixtures of every kind of one file, of which none is large."""
    return [data for data in (*zips(), *_old(), *_safetensors()) if len(data) < 40_000]


DRIVERS: dict[str, Driver] = {
    "walker": walker,
    "zip": zip_container,
    "source": source_text,
    "legacy": legacy,
    "safetensors": safetensors,
    "index": index,
    "pieces": pieces,
    "wrapper": wrapper,
    "distributed": distributed,
    "stranger": stranger,
    "arrays": arrays,
    "joblib": joblib,
    "plain": plain,
    "unpacked": unpacked,
    "distcp": distcp,
    "folders": folder_in_archive,
    "nested": lambda random, folder: nested(random, folder, _small()),
    "servers": servers,
}
JUDGES = {"servers": fault_of_server}
"""Who says what opening the file of a driver ended as, where it is not `fault_of`."""
