"""The commands as a user runs them: whole processes, their output, and how they end."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.paths import FIXTURES, STNKD
from support.program import assert_one_line, listed, run

# ------------------------------------------------------------------------------------------------ shapes


def test_shapes_of_every_stnkd_container_agree_but_for_evidence() -> None:
    def essence(path: Path) -> list[tuple[object, ...]]:
        return [
            (layer["name"], layer["kind"], layer["weight"], layer["bias"], layer["pointwise"], layer["numel"])
            for layer in listed(path).values()
        ]

    containers = sorted([*FIXTURES.glob("pointnet_stnkd*.pt"), *FIXTURES.glob("pointnet_stnkd.*")])
    assert len(containers) >= 8
    expected = sorted(essence(STNKD), key=str)
    assert len(expected) == 6
    for path in containers:
        assert sorted(essence(path), key=str) == expected, path.name


def test_a_module_knows_what_a_state_dict_does_not() -> None:
    plain, module = listed(STNKD)["conv1"], listed(FIXTURES / "pointnet_stnkd_module.pt")["conv1"]
    assert (plain["evidence"], plain["groups"], plain["stride"], plain["in_channels"]) == ("shape", None, None, None)
    assert (module["evidence"], module["groups"], module["stride"], module["padding"]) == ("module", 1, [1], [0])
    assert module["in_channels"] == module["weight"]["shape"][1]  # type: ignore[index]


def test_filters_and_order() -> None:
    assert list(listed(STNKD, "--layer", "conv*")) == ["conv1", "conv2", "conv3"]
    assert list(listed(STNKD, "--kind", "linear")) == ["fc1", "fc2", "fc3"]
    assert list(listed(STNKD, "--pointwise")) == ["conv1", "conv2", "conv3"]
    assert len(listed(STNKD, "--all")) == 11


def test_a_name_that_matches_nothing_gives_the_closest() -> None:
    assert_one_line(run("shapes", STNKD, "--layer", "convv1"), "convv1", "conv1")


def test_csv_and_markdown_are_whole(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("shapes", STNKD, "--format", "csv").stdout)))
    assert [row["name"] for row in rows] == ["conv1", "conv2", "conv3", "fc1", "fc2", "fc3"]
    assert rows[0]["kind"] == "Conv1d"
    markdown = run("shapes", STNKD, "--format", "md").stdout
    assert markdown.count("|") > 6 * 10


def test_piped_output_is_never_cut(tmp_path: Path) -> None:
    name = ".".join(f"a_rather_long_module_name_{i}" for i in range(12))
    save_file({f"{name}.weight": torch.zeros(4, 6, 1)}, tmp_path / "long.safetensors")
    assert name in run("shapes", tmp_path / "long.safetensors").stdout


def test_narrow_output_fits_and_keeps_numbers_whole() -> None:
    result = run("shapes", STNKD, "--width", "60")
    assert all(len(line) <= 60 for line in result.stdout.splitlines())
    assert "(16, 8, 1)" in result.stdout


def test_no_color_means_no_escape_sequences() -> None:
    assert "\x1b" in run("shapes", STNKD, env={"FORCE_COLOR": "1", "NO_COLOR": ""}).stdout
    assert "\x1b" not in run("shapes", STNKD, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "\x1b" not in run("shapes", STNKD).stdout


@pytest.mark.parametrize("suffix", [".svg", ".html", ".md", ".txt", ".csv", ".json"])
def test_output_keeps_the_table_as_a_file(tmp_path: Path, suffix: str) -> None:
    result = run("shapes", STNKD, "--output", tmp_path / f"table{suffix}")
    assert (result.returncode, result.stdout) == (0, "")
    assert "conv1" in (tmp_path / f"table{suffix}").read_text(encoding="utf-8")


def test_output_of_an_unknown_kind_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run("shapes", STNKD, "--output", tmp_path / "table.docx"), ".svg")


def test_names_from_the_file_are_never_obeyed(tmp_path: Path) -> None:
    hostile = "a\x1b[31m[bold]x[/bold]\r\n\u202eb"
    save_file({f"{hostile}.weight": torch.zeros(4, 6, 1)}, tmp_path / "names.safetensors")
    for options in ((), ("--format", "csv"), ("--format", "md"), ("--format", "json"), ("--width", "60")):
        shown = run("shapes", tmp_path / "names.safetensors", *options).stdout
        assert "\x1b" not in shown
        assert "\r" not in shown
        assert "\u202e" not in shown
        if options in ((), ("--format", "csv"), ("--format", "json")):
            assert "[bold]" in shown


def test_a_damaged_file_is_shown_and_ends_with_two(tmp_path: Path) -> None:
    whole = (FIXTURES / "pointnet_stnkd.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    result = run("shapes", tmp_path / "cut.safetensors")
    assert_one_line(result, "truncated", f"{len(whole) - 10:,}", f"{len(whole):,}")
    assert "conv1" in result.stdout


# ----------------------------------------------------------------------------------------------- weights


def test_weights_are_the_numbers_that_torch_loads() -> None:
    expected = torch.load(STNKD, weights_only=True)
    result = run("weights", STNKD, "conv1", "fc2", "--format", "json")
    found = json.loads(result.stdout)["layers"]
    assert [layer["name"] for layer in found] == ["conv1", "fc2"]
    for layer in found:
        assert layer["weight"] == expected[f"{layer['name']}.weight"].tolist()
        assert layer["bias"] == expected[f"{layer['name']}.bias"].tolist()


def test_weights_csv_is_full_precision_with_bias() -> None:
    expected = torch.load(STNKD, weights_only=True)
    rows = list(csv.reader(io.StringIO(run("weights", STNKD, "conv2", "--format", "csv").stdout)))
    numbers = [[float(cell) for cell in row[1:]] for row in rows[1:]]
    joined = torch.cat([expected["conv2.weight"][:, :, 0], expected["conv2.bias"][:, None]], dim=1)
    assert numbers == joined.double().tolist()


@pytest.mark.parametrize(
    ("options", "rows", "columns"),
    [
        (("--rows", "0:3", "--cols", "2:4"), slice(0, 3), slice(2, 4)),
        (("--rows", "-2:"), slice(-2, None), slice(None)),
        (("--kernel", "5"), slice(5, 6), slice(None)),
        (("--rows", "-1"), slice(-1, None), slice(None)),
    ],
)
def test_slices(options: tuple[str, ...], rows: slice, columns: slice) -> None:
    expected = torch.load(STNKD, weights_only=True)["conv1.weight"][rows, columns]
    found = json.loads(run("weights", STNKD, "conv1", *options, "--format", "json").stdout)
    assert found["layers"][0]["weight"] == expected.tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("conv1", "--rows", "99:"), ("99:", "16")),
        (("conv1", "--rows", "a:b"), ("a:b",)),
        (("conv1", "--kernel", "16"), ("16", "conv1")),
        (("conv1", "--kernel", "1", "--rows", "0:2"), ("--rows",)),
        (("bn1", "--kernel", "1"), ("bn1",)),
        (("nothing",), ("nothing",)),
    ],
)
def test_wishes_that_do_not_fit_are_one_line(options: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(run("weights", STNKD, *options), *words)


def test_weights_on_eighty_columns_never_cut_a_number() -> None:
    expected = torch.load(STNKD, weights_only=True)["conv3.weight"]
    result = run("weights", STNKD, "conv3", "--width", "80")
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert f"{expected[0, 0, 0]:.4f}" in result.stdout
    assert "of 24 columns" in result.stdout


def test_statistics_agree_with_torch() -> None:
    expected = torch.load(STNKD, weights_only=True)
    result = run("weights", STNKD, "--stats", "--format", "json")
    for layer in json.loads(result.stdout)["layers"]:
        weight = expected[f"{layer['name']}.weight"].double()
        assert layer["min"] == weight.min().item()
        assert layer["max"] == weight.max().item()
        assert layer["mean"] == pytest.approx(weight.mean().item(), rel=1e-12)
        assert layer["std"] == pytest.approx(weight.std().item(), rel=1e-12)
        assert layer["l2"] == pytest.approx(weight.norm().item(), rel=1e-12)
        assert sum(layer["histogram"]) == weight.numel()
        assert (layer["zeros"], layer["nan"], layer["inf"]) == (0, 0, 0)


def test_a_damaged_record_is_noticed(tmp_path: Path) -> None:
    data = bytearray(STNKD.read_bytes())
    weight = torch.load(STNKD, weights_only=True)["conv1.weight"]
    at = bytes(data).index(weight.numpy().tobytes())
    data[at + 5] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    assert run("shapes", tmp_path / "flipped.pt").returncode == 0
    assert_one_line(run("weights", tmp_path / "flipped.pt", "conv1"), "CRC")


def test_many_layers_without_a_name_give_statistics(tmp_path: Path) -> None:
    save_file({f"layers.{i}.weight": torch.randn(4, 6, 1) for i in range(9)}, tmp_path / "many.safetensors")
    shown = run("weights", tmp_path / "many.safetensors").stdout
    assert "histogram" in shown
    assert "weights FILE LAYER" in shown


@pytest.mark.parametrize("name", ["weight_norm_old.pt", "spectral_norm_parametrized.pt", "pruned.pt"])
def test_effective_kernels_say_so(name: str) -> None:
    assert "effective kernel" in run("weights", FIXTURES / name, "conv").stdout


def test_many_taps_are_elided_for_people_and_kept_for_machines(tmp_path: Path) -> None:
    file = tmp_path / "taps.pt"
    torch.save({"a.weight": torch.randn(3, 2, 1000), "a.bias": torch.tensor([1 / 3, 2 / 3, 1])}, file)
    for option in ((), ("--heatmap",), ("--width", 80)):
        shown = run("weights", file, "a", *option).stdout
        assert shown.count("tap ") == 8
        assert "992 of 1,000 taps left out" in shown
        assert shown.index("tap 3 of") < shown.index("left out") < shown.index("tap 996 of")
    kept = json.loads(run("weights", file, "a", "--format", "json").stdout)["layers"][0]["weight"]
    assert len(kept[0][0]) == 1000
    assert run("weights", file, "a", "--format", "csv").stdout.count("tap 500 of") == 3
    assert run("weights", file, "a", "--rows", 0, "--cols", "0").stdout.count("tap 500 of") == 1


@pytest.mark.parametrize(("option", "bias"), [((), "0.6667"), (("-p", 9), "0.666666687"), (("-p", 2), "0.67")])
def test_a_kernels_bias_has_the_precision_asked_for(tmp_path: Path, option: tuple[object, ...], bias: str) -> None:
    torch.save({"a.weight": torch.randn(3, 2, 1), "a.bias": torch.tensor([1 / 3, 2 / 3, 1])}, tmp_path / "a.pt")
    assert run("weights", tmp_path / "a.pt", "a", "--kernel", 1, *option).stdout.splitlines()[-1] == f"bias {bias}"


def test_heatmap_and_taps(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.randn(4, 6, 3)}, tmp_path / "wide.safetensors")
    shown = run("weights", tmp_path / "wide.safetensors", "conv").stdout
    assert all(f"tap {tap} of 3" in shown for tap in range(3))
    drawn = run(
        "weights",
        tmp_path / "wide.safetensors",
        "conv",
        "--heatmap",
        env={"FORCE_COLOR": "1", "TERM": "xterm-256color"},
    ).stdout
    assert "▀" in drawn


def test_a_quantized_convolution_shows_a_matrix_per_tap(tmp_path: Path) -> None:
    integers = torch.arange(18, dtype=torch.int8).reshape(3, 2, 3)
    torch.save({"q.weight": integers, "q.bias": torch.zeros(3)}, tmp_path / "q.pt")
    shown = run("weights", tmp_path / "q.pt", "q").stdout
    assert [line.split() for line in shown.splitlines() if line.startswith("out 2")] == [
        ["out", "2", str(12 + tap), str(15 + tap)] for tap in range(3)
    ]
    assert "weight tap 2 of 3" in shown
    assert run("weights", tmp_path / "q.pt", "q", "--rows", "1", "--cols", "0").stdout.count("out 1") == 3
    held = json.loads(run("weights", tmp_path / "q.pt", "q", "--format", "json").stdout)["layers"][0]["matrices"]
    assert [one["values"] for one in held[:3]] == integers.permute(2, 0, 1).tolist()


# ------------------------------------------------------------------------------------- habits of the program


def test_version_help_and_usage_errors() -> None:
    assert run("--version").stdout.startswith("convinspect ")
    for command in ("shapes", "weights"):
        helped = run(command, "--help", env={"COLUMNS": "100"})
        assert helped.returncode == 0
        assert f"convinspect {command} model.pt" in helped.stdout
    assert run("shapes").returncode == 2
    assert run("nonsense").returncode == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("convert x.pt --to banana", "--to: 'banana' is not one of 'linear', 'conv1d', 'conv2d', 'conv3d', 'convtra"),
        ("convert x.pt --to conv1", "'convtranspose2d', 'convtranspose3d'; did you mean conv1d?"),
        ("shapes x.pt --format jsn", "--format: 'jsn' is not one of 'table', 'json', 'csv', 'md'; did you mean json?"),
        ("weights x.pt -p abc", "--precision takes a whole number from 1 to 17; see convinspect weights -h"),
        ("weights x.pt -p 18", "--precision takes a whole number from 1 to 17; see convinspect weights -h"),
        ("shapes x.pt --limit=", "--limit takes a whole number of at least 1; see convinspect shapes -h"),
        ("explain --seed -1", "--seed takes a whole number from 0 to 9,223,372,036,854,775,807; see convinspect expl"),
        ("explain --rows 1.5", "--samples takes a whole number from 1 to 10,000; see convinspect explain -h"),
        ("./x.pt --limit", "option '--limit' requires an argument; see convinspect shapes -h"),
        ("shapes", "missing argument 'PATH'; see convinspect shapes -h"),
        ("shapes x.pt y.pt", "got unexpected extra argument(s) (y.pt); see convinspect shapes -h"),
        ("shapes x.pt --layer", "option '--layer' requires an argument; see convinspect shapes -h"),
        ("shapes x.pt --bogus", "no such option: --bogus; see convinspect shapes -h"),
        ("shapes x.pt --nonsense", "no such option: --nonsense; see convinspect shapes -h"),
        ("shapes x.pt --formt json", "no such option: --formt; did you mean --format?"),
        ("shapes x.pt --jsn", "no such option: --jsn; did you mean --json?"),
        ("hlep", "no such command 'hlep'; did you mean help?"),
        ("versoin", "no such command 'versoin'; did you mean version?"),
        ("help shpes", "no such command 'shpes'; did you mean shapes?"),
        ("help nothing", "no such command 'nothing'; see convinspect -h"),
        ("shape x.pt", "no such command 'shape'; did you mean shapes?"),
        ("banana", "no such command 'banana'; see convinspect -h"),
        ("--bogus", "no such option: --bogus; see convinspect -h"),
        ("--bogus shapes x.pt", "no such option: --bogus; see convinspect -h"),
        ("shapes x.pt --\x1b[31m", "no such option: --\\x1b[31m; see"),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_understood_is_one_line(words: str, said: str) -> None:
    result = run(*words.split(" "), env={"COLUMNS": "80"}, with_torch=False)
    assert_one_line(result, said)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("habit", "spelled_out"),
    [
        ([STNKD], ["shapes", STNKD]),
        ([STNKD, "--pointwise", "--format", "csv"], ["shapes", STNKD, "--pointwise", "--format", "csv"]),
        ([FIXTURES / "sharded"], ["shapes", FIXTURES / "sharded"]),
        (["nowhere/at.all"], ["shapes", "nowhere/at.all"]),
        (["--layer=fc1", "--json", STNKD], ["shapes", STNKD, "--layer", "fc1", "--format", "json"]),
        (["-a", "--", STNKD], ["shapes", STNKD, "--all"]),
        (["--help", STNKD], ["--help"]),
        (["help"], ["--help"]),
        (["help", "convert"], ["convert", "--help"]),
        (["help", "help"], ["--help"]),
        (["version"], ["--version"]),
        (["-V"], ["--version"]),
        (["shapes", STNKD, "--json"], ["shapes", STNKD, "--format", "json"]),
        (["check", "--json", STNKD], ["check", STNKD, "--format", "json"]),
    ],
)
def test_what_hands_type_by_habit(habit: list[str | Path], spelled_out: list[str | Path]) -> None:
    env = {"COLUMNS": "80"}
    typed, meant = (run(*map(str, words), env=env) for words in (habit, spelled_out))
    assert (typed.returncode, typed.stdout, typed.stderr) == (meant.returncode, meant.stdout, meant.stderr)
    assert typed.stdout or typed.returncode == 2


def test_a_command_counts_before_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "check").write_bytes(STNKD.read_bytes())
    (tmp_path / "model").write_bytes(STNKD.read_bytes())
    assert run("check").returncode == 2
    assert run("model").stdout == run("shapes", "model").stdout
    assert run("shapes", "--", "--json").stderr == "error: --json: there is no such file\n"


def test_layer_names_complete_from_the_file() -> None:
    words = f"convinspect shapes {STNKD} --layer conv"
    completed = run(env={"_CONVINSPECT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"})
    assert completed.stdout.split() == ["conv1", "conv2", "conv3"]


def test_head_is_no_error() -> None:
    command = f"{sys.executable} -m convinspect shapes {STNKD} --all | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_listing_loads_neither_torch_nor_numpy() -> None:
    script = (
        "import sys; sys.argv = ['convinspect', 'shapes', sys.argv[1]]\n"
        "from convinspect.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'numpy', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script, str(STNKD)], capture_output=True, text=True, timeout=60)
    assert result.stderr.strip() == "set()"


def test_showing_weights_does_not_load_torch() -> None:
    script = (
        "import sys; sys.argv = ['convinspect', 'weights', sys.argv[1], 'conv1']\n"
        "from convinspect.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script, str(STNKD)], capture_output=True, text=True, timeout=60)
    assert result.stderr.strip() == "False"


def test_a_bug_of_ours_ends_with_three(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from convinspect import checkpoint
    from convinspect.cli import main as entry

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(checkpoint, "open_checkpoint", broken)
    monkeypatch.setattr(sys, "argv", ["convinspect", "shapes", str(STNKD)])
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 3
    assert "please report it" in capsys.readouterr().err


def _missing(tmp_path: Path) -> Path:
    return tmp_path / "missing.pt"


def _unreadable(tmp_path: Path) -> Path:
    return Path("/dev/null") if os.name == "posix" else tmp_path


@pytest.mark.parametrize("make", [_missing, _unreadable])
def test_no_file_is_one_line(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    for command in ("shapes", "weights"):
        assert_one_line(run(command, make(tmp_path)))


def test_stats_and_a_choice_of_numbers_exclude_each_other() -> None:
    for option in (["--rows", "0:2"], ["--cols", "0:2"], ["--kernel", "0"], ["--heatmap"]):
        assert_one_line(run("weights", STNKD, "--stats", *option), option[0])


def test_rows_without_a_layer_are_not_passed_over() -> None:
    whole = json.loads(run("weights", STNKD, "--rows", "0:2", "--format", "json").stdout)
    assert all(len(layer["weight"]) == 2 for layer in whole["layers"])


def test_output_and_format_must_agree(tmp_path: Path) -> None:
    assert_one_line(run("shapes", STNKD, "--format", "json", "--output", tmp_path / "table.csv"), "disagree")
    assert run("shapes", STNKD, "--format", "csv", "--output", tmp_path / "table.csv").returncode == 0
    assert (tmp_path / "table.csv").read_text().startswith("name,kind")


def test_output_never_replaces_a_checkpoint(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    assert_one_line(run("shapes", STNKD, "--output", index), "index")
    assert index.read_text() == "{}"
    source = tmp_path / "model.html"
    source.write_bytes(Path(STNKD).read_bytes())
    assert_one_line(run("shapes", source, "--output", source), "opened")
    assert source.read_bytes() == Path(STNKD).read_bytes()
