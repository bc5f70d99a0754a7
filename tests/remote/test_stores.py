"""Object stores and whatever else fsspec knows: moto's S3, memory, files of this machine."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint

import convinspect
from convinspect.errors import ConvInspectError, NotInstalled, NotThere
from support.in_process import call_main
from support.paths import FIXTURES

NAMES = ("pointnet_stnkd.pt", "pointnet_stnkd.safetensors", "legacy_views.pt")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a server of S3."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system with an empty bucket named `bucket`, which the program finds by its environment."""
    import s3fs

    for name, value in {
        "AWS_ACCESS_KEY_ID": "id-geheim",
        "AWS_SECRET_ACCESS_KEY": "geheim",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("bucket")
    yield fs
    fs.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_in_a_bucket(s3: Any, name: str) -> None:
    s3.put(str(FIXTURES / name), f"bucket/deep/{name}")
    here, there = convinspect.open(FIXTURES / name), convinspect.open(f"s3://bucket/deep/{name}")
    assert [*there] == [*here]
    for key in here:
        assert np.array_equal(there.read(key), here.read(key))


def test_a_folder_in_a_bucket(s3: Any, tmp_path: Path) -> None:
    s3.put(str(FIXTURES / "sharded"), "bucket/model", recursive=True)
    here = convinspect.open(FIXTURES / "sharded")
    for address in ("s3://bucket/model", "s3://bucket/model/", "s3://bucket/model/model.safetensors.index.json"):
        there = convinspect.open(address)
        assert ([*there], there.shards) == ([*here], here.shards)
    convinspect.convert("s3://bucket/model", tmp_path / "there", to="linear")
    convinspect.convert(FIXTURES / "sharded", tmp_path / "here", to="linear")
    for path in (tmp_path / "there").iterdir():
        assert path.read_bytes() == (tmp_path / "here" / path.name).read_bytes()
    assert call_main("verify", "s3://bucket/model", tmp_path / "there").code == 0


def test_a_distributed_checkpoint_in_a_bucket(s3: Any) -> None:
    s3.put(str(FIXTURES / "distributed"), "bucket/dcp", recursive=True)
    here, there = convinspect.open(FIXTURES / "distributed"), convinspect.open("s3://bucket/dcp")
    assert [*there] == [*here]
    for key in here:
        assert np.array_equal(there.read(key), here.read(key))
    assert call_main("check", "s3://bucket/dcp").code == call_main("check", FIXTURES / "distributed").code


def test_a_distributed_checkpoint_in_a_bucket_is_converted(s3: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.checkpoint.save(  # type: ignore[attr-defined]
            torch.nn.Conv1d(3, 4, 1).state_dict(), checkpoint_id=tmp_path / "dcp"
        )
    s3.put(str(tmp_path / "dcp"), "bucket/converted", recursive=True)
    for source, target in ((tmp_path / "dcp", "here"), ("s3://bucket/converted", "there")):
        ended = call_main("convert", source, "-o", tmp_path / target, "--to", "linear")
        assert ended.code == 0, ended.err
    assert (tmp_path / "there" / "__0_0.distcp").read_bytes() == (tmp_path / "here" / "__0_0.distcp").read_bytes()
    assert call_main("verify", "s3://bucket/converted", tmp_path / "there").code == 0


def test_what_is_not_in_a_bucket(s3: Any) -> None:
    s3.put(str(FIXTURES / "README.md"), "bucket/folder/README.md")
    for address, what in (("s3://bucket/none.pt", "file"), ("s3://no-such-bucket/w.pt", "bucket")):
        with pytest.raises(NotThere, match=f"there is no such {what}"):
            convinspect.open(address)
    for address in ("s3://bucket/none.pt", "s3://no-such-bucket/w.pt", "s3://bucket/none", "s3://bucket/folder"):
        with pytest.raises(ConvInspectError) as raised:
            convinspect.open(address)
        assert str(raised.value).startswith(f"{address}: ")
        assert "\n" not in str(raised.value)
        assert "geheim" not in str(raised.value)


def test_a_bucket_that_asks_who_is_there(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(NotThere, match="AWS_ACCESS_KEY_ID"):
        convinspect.open("s3://bucket/w.pt")


def test_files_in_memory_and_of_this_machine(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in NAMES:
        memory.pipe(f"/models/{name}", (FIXTURES / name).read_bytes())
        here = convinspect.open(FIXTURES / name)
        for address in (f"memory://models/{name}", f"file://{FIXTURES}/{name}"):
            there = convinspect.open(address)
            assert [*there] == [*here]
            for key in here:
                assert np.array_equal(there.read(key), here.read(key))
    memory.rm("/models", recursive=True)
    with pytest.raises(NotThere, match="no such file"):
        convinspect.open("memory://models/none.pt")
    assert len(convinspect.open(f"file://{FIXTURES}/sharded")) == len(convinspect.open(FIXTURES / "sharded"))


def test_what_fsspec_chains(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.write(FIXTURES / "pointnet_stnkd.pt", "w.pt")
    assert len(convinspect.open(f"zip://w.pt::file://{tmp_path}/x.zip")) == 37


def test_a_store_that_changes() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/changing.pt", (FIXTURES / "pointnet_stnkd.pt").read_bytes())
    checkpoint = convinspect.open("memory://changing.pt")
    from convinspect.remote import fetching

    memory.pipe("/changing.pt", (FIXTURES / "dtypes.pt").read_bytes())
    trusted, fetching._TRUSTED = fetching._TRUSTED, 0
    try:
        with pytest.raises(ConvInspectError, match="it changed while it was read"):
            checkpoint.read("conv1.weight")
    finally:
        fetching._TRUSTED = trusted
    assert len(convinspect.open("memory://changing.pt")) == len(convinspect.open(FIXTURES / "dtypes.pt"))
    memory.rm("/changing.pt")


@pytest.mark.parametrize("scheme", ["gs", "abfs", "github", "ftp", "ssh"])
def test_a_store_whose_package_is_missing_or_that_is_not_there(scheme: str) -> None:
    with pytest.raises(ConvInspectError) as raised:
        convinspect.open(f"{scheme}://127.0.0.1:1/w.pt")
    assert "\n" not in str(raised.value)
    if scheme == "gs" and isinstance(raised.value, NotInstalled):
        assert raised.value.remedy == "python -m pip install gcsfs"


def test_an_unpacked_folder_in_a_store(tmp_path: Path) -> None:
    """Listed there as here, with its numbers; `check` and `shapes` agree."""
    with zipfile.ZipFile(FIXTURES / "pointnet_stnkd.pt") as archive:
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/unpacked", recursive=True)
    here, there = convinspect.open(folder), convinspect.open("memory://unpacked")
    assert (there.format, [*there]) == (here.format, [*here])
    for key in here:
        assert np.array_equal(here.read(key), there.read(key))
    assert [call_main(word, "memory://unpacked").code for word in ("shapes", "check")] == [0, 0]


@pytest.mark.parametrize("top", ["ck/", ""])
def test_a_distributed_checkpoint_in_an_archive_in_a_store(tmp_path: Path, top: str) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in (FIXTURES / "distributed").iterdir():
            archive.write(path, top + path.name)
    name = f"{len(top)}.zip"
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "d.zip"), f"/held/{name}")
    store.put(str(tmp_path / "d.zip"), f"/top-{name}")
    here = convinspect.open(FIXTURES / "distributed")
    first = next(iter(here))
    held = [f"memory://held/{name}", f"memory://top-{name}"]
    for place in (one + member for one in held for member in ("", f"!{top}.metadata")):
        there = convinspect.open(place)
        assert [*there] == [*here]
        assert np.array_equal(here.read(first), there.read(first))
        assert [call_main(word, place).code for word in ("shapes", "check")] == [0, 0]
