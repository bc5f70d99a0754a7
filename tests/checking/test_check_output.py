"""`check` as a user runs it: exit codes, the table, the JSON and SARIF contracts, and what stands in the docs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from convinspect.checking.findings import CODES
from support.hostile import HOSTILE, beside_a_layer, bomb, flip_byte, text, zip_file
from support.paths import FIXTURES
from support.program import run

STNKD = FIXTURES / "pointnet_stnkd.pt"
GONE = FIXTURES / "net_gone.pt"
ROOT = FIXTURES.parent


def evil(folder: Path) -> Path:
    return zip_file(folder, beside_a_layer(bomb(folder / "marker")))


def test_a_whole_file_ends_with_0_and_is_not_called_safe() -> None:
    result = run("check", STNKD)
    assert (result.returncode, result.stderr) == (0, "")
    assert "nothing found" in result.stdout
    assert "is safe" not in result.stdout


def test_a_finding_ends_with_1(tmp_path: Path) -> None:
    result = run("check", evil(tmp_path))
    assert (result.returncode, result.stderr) == (1, "")
    row = next(line for line in result.stdout.splitlines() if "os.system" in line)
    assert row.split()[:2] == ["error", "global-executes"]
    assert "archive/data.pkl, byte" in row
    assert "runs commands or code" in row


def test_what_cannot_be_read_ends_with_2_and_one_line() -> None:
    result = run("check", ROOT / "README.md")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {ROOT / 'README.md'}: it is a text file")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("names", "code"),
    [(("w",), 0), (("w", "f"), 1), (("f", "w"), 1), (("w", "f", "u"), 2), (("u", "w"), 2), (("u", "f"), 2)],
)
def test_of_several_paths_the_worst_counts(names: tuple[str, ...], code: int) -> None:
    paths = {"w": STNKD, "f": GONE, "u": ROOT / "README.md"}
    result = run("check", *(paths[name] for name in names))
    assert result.returncode == code
    assert (f"{len(names)} paths: " in result.stdout) == (len(names) > 1)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    copy = tmp_path / STNKD.name
    shutil.copyfile(STNKD, copy)
    titles = [line for line in run("check", STNKD, copy).stdout.splitlines() if "torch.save" in line]
    assert titles == [f"{path} · torch.save (zip)" for path in (STNKD, copy)]


def test_a_narrow_table_keeps_the_codes(tmp_path: Path) -> None:
    result = run("check", evil(tmp_path), "--width", 40)
    assert all(len(line) <= 40 for line in result.stdout.splitlines())
    assert "global-executes" in result.stdout.split("looked at", maxsplit=1)[0]


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_keeps_to_the_width(tmp_path: Path, width: int) -> None:
    result = run("check", evil(tmp_path), GONE, "--width", width)
    assert all(len(line) <= width for line in result.stdout.splitlines())
    assert "os.system" in result.stdout


def test_text_from_the_file_is_escaped(tmp_path: Path) -> None:
    path = HOSTILE["zip_escapes_in_class"](tmp_path, tmp_path / "m")
    for form in ("table", "json", "sarif"):
        result = run("check", path, "--format", form)
        assert result.returncode == 1
        assert "evil" in result.stdout
        assert all(char.isprintable() or char == "\n" for char in result.stdout)


def payload(*arguments: object) -> dict[str, Any]:
    result = run("check", *arguments, "--format", "json")
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["exit_code"] == result.returncode
    return found


def test_the_json_contract(tmp_path: Path) -> None:
    found = payload(evil(tmp_path), STNKD, ROOT / "README.md")
    assert list(found) == ["exit_code", "admitted_by", "files"]
    first, second, third = found["files"]
    assert [one["exit_code"] for one in found["files"]] == [1, 0, 2]
    assert list(first) == ["path", "format", "exit_code", "findings", "looked_at", "notes"]
    (one,) = [one for one in first["findings"] if one["name"] == "os.system"]
    assert list(one) == [
        "code", "level", "path", "record", "offset", "length", "file_offset", "name", "message", "remedy",
    ]  # fmt: skip
    assert (one["code"], one["level"], one["record"]) == ("global-executes", "error", "archive/data.pkl")
    assert (tmp_path / "zip.pt").read_bytes()[one["file_offset"] :][: one["length"]] == b"cos\nsystem\n"
    assert second["findings"] == []
    assert second["looked_at"]["crcs"] == second["looked_at"]["records"]
    assert third["findings"][0]["code"] == "unreadable"


def sarif(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("check", *arguments, "--format", "sarif").stdout)
    return found


def test_sarif_has_what_2_1_0_requires(tmp_path: Path) -> None:
    """Required by the schema: version, runs, a driver's name, a result's message; the rest by who reads it."""
    flipped = flip_byte(STNKD, tmp_path, STNKD.read_bytes().index(b"conv1.weight") + 4)
    found = sarif(evil(tmp_path), flipped, ROOT / "README.md", STNKD)
    assert found["version"] == "2.1.0"
    assert found["$schema"].endswith("sarif-schema-2.1.0.json")
    (one,) = found["runs"]
    driver = one["tool"]["driver"]
    assert driver["name"] == "convinspect"
    assert one["invocations"] == [{"executionSuccessful": False, "exitCode": 2}]
    rules = [rule["id"] for rule in driver["rules"]]
    assert len(set(rules)) == len(rules)
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])
    assert {"global-executes", "wrong-crc", "unreadable"} <= {result["ruleId"] for result in one["results"]}
    for result in one["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        physical = result["locations"][0]["physicalLocation"]
        assert re.fullmatch(r"[\x21-\x7e]+", physical["artifactLocation"]["uri"])
        region = physical.get("region", {"byteOffset": 0})
        assert region["byteOffset"] >= 0
        assert set(region) <= {"byteOffset", "byteLength"}
    named = next(result for result in one["results"] if "os.system" in result["message"]["text"])
    region = named["locations"][0]["physicalLocation"]["region"]
    content = (tmp_path / "zip.pt").read_bytes()
    assert content[region["byteOffset"] :][: region["byteLength"]] == b"cos\nsystem\n"


def test_sarif_of_nothing_found() -> None:
    (one,) = sarif(STNKD)["runs"]
    assert one["results"] == []
    assert one["invocations"] == [{"executionSuccessful": True, "exitCode": 0}]


def test_uris_of_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "a b#ü%.pt"
    shutil.copyfile(GONE, path)
    uri = sarif(path)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == path.as_uri()
    assert "a%20b%23%C3%BC%25.pt" in uri


@pytest.mark.parametrize("suffix", ["sarif", "json", "txt", "md", "html", "svg"])
def test_a_result_can_be_kept(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"found.{suffix}"
    result = run("check", GONE, "-o", target)
    assert (result.returncode, result.stdout) == (1, "net_gone.pt: 3 warnings\n")
    assert "Net" in target.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["sarif", "json", "txt", "md", "html", "svg"])
def test_a_kept_result_says_what_could_not_be_read(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"found.{suffix}"
    result = run("check", ROOT / "README.md", "-o", target)
    verdict = "README.md: could not be read as a whole, so nothing is said of the rest\n"
    assert (result.returncode, result.stdout) == (2, verdict)
    kept = target.read_text(encoding="utf-8").replace("&#160;", " ")
    assert "unreadable" in kept
    # A picture places each word by itself.
    assert suffix == "svg" or "it is a text file" in re.sub(r"\s+", " ", kept)


@pytest.mark.parametrize("name", ["x.csv", "x.foo", "x", "x.gif"])
def test_what_a_result_cannot_be_kept_as_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    result = run("check", GONE, STNKD, "-o", tmp_path / name)
    assert (result.returncode, result.stdout) == (2, "")
    assert ".sarif, .json, .txt" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / name).exists()


def test_what_is_not_listed_is_counted(tmp_path: Path) -> None:
    many = b"](" + b"".join(b"cmodels\nNet%d\n" % number for number in range(1_500)) + b"e"
    path = zip_file(tmp_path, beside_a_layer(many))
    result = run("check", path)
    assert "1,500 warnings" in result.stdout
    assert "800 more findings are not shown; --format json lists the first 1,000 of each code" in result.stdout
    assert "global-unknown: 500 more such findings are only counted" in result.stdout
    found = json.loads(run("check", path, "--format", "json").stdout)["files"][0]
    assert len(found["findings"]) == 1_000


def test_a_name_of_python_2_is_shown_as_todays(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2, 2), "r": range(3)}, path)
    result = run("check", path)
    assert "builtins.range" in result.stdout
    assert "xrange" not in result.stdout


def test_wishes_that_contradict_each_other(tmp_path: Path) -> None:
    assert run("check", GONE, "--format", "sarif", "-o", tmp_path / "x.txt").returncode == 2
    assert run("check", GONE, "--format", "json", "-o", tmp_path / "x.sarif").returncode == 2
    copy = tmp_path / "copy.json"
    shutil.copyfile(GONE, copy)
    assert run("check", copy, "-o", copy).returncode == 2
    assert copy.read_bytes() == GONE.read_bytes()


def test_structure_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from convinspect.checking.scan import check; from pathlib import Path;"
        f"[check(Path({str(FIXTURES)!r}) / name) for name in ('pointnet_stnkd.pt', 'sharded', 'distributed')];"
        "print(sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


@pytest.mark.parametrize("options", [(), ("--all",)])
def test_shapes_tells_of_names_that_are_known_to_do_harm(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run("shapes", evil(tmp_path), *options)
    assert result.returncode == 0
    line = "loading its pickle may call os.system (runs commands or code); convinspect check FILE shows where"
    assert result.stdout.count(line) == 1
    hub = b"ctorch.hub\nload\n(" + text("x") + b"tR"
    assert "may call torch.hub.load (runs" in run("shapes", zip_file(tmp_path, beside_a_layer(hub)), *options).stdout
    for name in ("pointnet_stnkd.pt", "net_gone.pt", "lightning.ckpt", "distributed", "stray_objects.pt"):
        assert "may call" not in run("shapes", FIXTURES / name, *options).stdout


def test_nan_is_looked_for_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.tensor([1.0, float("nan")])}, path)
    assert run("check", path).returncode == 0
    result = run("check", path, "--values")
    assert result.returncode == 1
    assert "w: 1 of 2 is NaN, the first at [1]" in result.stdout


def test_the_docs_list_every_code() -> None:
    page = (ROOT / "docs" / "checking.md").read_text(encoding="utf-8")
    listed = [line for line in page.splitlines() if re.match(r"\| `[a-z-]+` \| (error|warning|note) \|", line)]
    wanted = [f"| `{code.name}` | {code.level} | {code.meaning} |" for code in CODES.values()]
    assert listed == wanted, "\n".join(wanted)
