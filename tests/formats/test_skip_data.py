"""Files of `torch.serialization.skip_data()`: room for the numbers, which somebody may or may not write later."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from convinspect.checking.scan import check
from convinspect.formats import read_contents
from convinspect.formats.torch.skipped import NOTE
from support.in_process import run


def skipped(path: Path, thing: object | None = None) -> Path:
    model = nn.Sequential(nn.Conv1d(6, 4, 1), nn.Linear(4, 3))
    with torch.serialization.skip_data():
        torch.save(model.state_dict() if thing is None else thing, path)
    return path


def codes(path: Path) -> set[str]:
    return {found.code for found in check(path).findings}


def test_the_listing_says_that_numbers_may_be_missing(tmp_path: Path) -> None:
    path = skipped(tmp_path / "a.pt")
    assert not any(torch.load(path)["0.weight"].flatten())
    done = run("shapes", path)
    assert (done.returncode, NOTE[:60] in done.stdout) == (0, True)
    assert NOTE in json.loads(run("shapes", path, "--format", "json").stdout)["notes"]


@pytest.mark.parametrize("options", [(), ("--stats",)])
def test_so_do_the_weights(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert "skip_data()" in run("weights", skipped(tmp_path / "a.pt"), "0", *options).stdout


def test_so_does_verify(tmp_path: Path) -> None:
    assert "skip_data()" in run("verify", skipped(tmp_path / "a.pt")).stdout


def test_so_do_the_other_commands_that_read_or_copy_numbers(tmp_path: Path) -> None:
    path, other, target = skipped(tmp_path / "a.pt"), tmp_path / "b.pt", tmp_path / "c.pt"
    state = torch.load(path)
    torch.save(state, other)
    name = next(key for key, one in state.items() if one.dim() > 1).rpartition(".")[0]
    for words in (["--rename", "0=first"], ["--state-dict"], ["--rename", "0=first", "--dry-run"]):
        assert "skip_data()" in run("convert", path, "-o", target, "--force", *words).stderr
    # It would load, and what it brings are zeros: `diff` says so whether it compares numbers or not.
    assert "skip_data()" in run("diff", path, other).stdout
    assert "skip_data()" in run("diff", path, other, "--values").stdout
    assert "skip_data()" not in run("diff", other, other).stdout
    assert "skip_data()" in run("explain", path, name).stderr
    assert "skip_data()" not in run("explain", other, name).stderr


def test_check_names_the_cause_and_whether_there_are_numbers(tmp_path: Path) -> None:
    path = skipped(tmp_path / "a.pt")
    (found,) = check(path).findings
    assert (found.code, found.level) == ("not-written", "warning")
    assert "all are zeros" in found.message
    # What skip_data is for: another program writes the numbers where PyTorch left room for them.
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo("a/data/0").header_offset
    content = bytearray(path.read_bytes())
    name, extra = struct.unpack_from("<HH", content, header + 26)
    at = header + 30 + name + extra
    content[at : at + 4] = b"\0\0\x80\x3f"
    path.write_bytes(content)
    assert torch.load(path)["0.weight"].flatten()[0] == 1
    (found,) = check(path).findings
    assert (found.code, "some hold numbers" in found.message) == ("not-written", True)


def test_a_whole_module_and_shards(tmp_path: Path) -> None:
    assert read_contents(skipped(tmp_path / "m.pt", nn.Linear(3, 2))).unwritten == NOTE
    skipped(tmp_path / "pytorch_model.bin", nn.Linear(3, 2).state_dict())
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(("weight", "bias"), "pytorch_model.bin")}))
    assert read_contents(index).unwritten == NOTE


def test_files_without_any_crc_are_not_among_them(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "a.pt")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "b.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert [read_contents(tmp_path / name).unwritten for name in ("a.pt", "b.pt")] == ["", ""]
    assert (codes(tmp_path / "a.pt"), codes(tmp_path / "b.pt")) == (set(), {"no-crc"})


def test_nor_are_files_whose_tensors_have_no_numbers(tmp_path: Path) -> None:
    torch.save({"w": torch.empty(0, 3), "b": torch.empty(2, device="meta")}, tmp_path / "a.pt")
    assert read_contents(tmp_path / "a.pt").unwritten == ""
