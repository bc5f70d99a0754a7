"""`diff A --error`: what PyTorch says is read whatever surrounds it, and each line gets an answer that holds."""

from __future__ import annotations

import contextlib
import json
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.diffing.fixes import ErrorReport, suggest_fixes
from convinspect.diffing.load_error import LoadErrorItem, Trouble, read_error
from convinspect.diffing.texts.reading import read_text
from convinspect.errors import CannotShow
from convinspect.showing.flags import flagged
from support.diffing import SHAPES, Holder, typed, zeros
from support.in_process import command, run
from support.paths import FIXTURES
from support.program import assert_one_line
from support.sampling import times

State = dict[str, Any]


def said_by_torch(model: nn.Module, state: State) -> str:
    """PyTorch's own words."""
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(state)
    return str(caught.value)


def answered(folder: Path, state: Any, text: str) -> ErrorReport:
    torch.save(state, folder / "a.pt")
    return suggest_fixes(open_checkpoint(folder / "a.pt"), read_error(text))


def fixes(report: ErrorReport) -> dict[str, str]:
    return {one.item.key: one.fix for one in report.answers}


# ------------------------------------------------------------------------------------------------------ reading it

KEYS = st.lists(
    st.sampled_from(["module", "enc", "0", "layer norm", "x:y", "weight", "ключ", "a,b"]), min_size=1, max_size=4
)
SIZED = st.dictionaries(KEYS.map(".".join), SHAPES, min_size=1, max_size=6).filter(
    lambda found: not any(other.startswith(f"{key}.") for key in found for other in found)
)


def expected(model: dict[str, tuple[int, ...]], state: dict[str, tuple[int, ...]]) -> set[LoadErrorItem]:
    found = {LoadErrorItem(Trouble.MISSING, key) for key in model if key not in state}
    found |= {LoadErrorItem(Trouble.UNEXPECTED, key) for key in state if key not in model}
    for key, shape in model.items():
        if key in state and state[key] != shape and (shape, state[key]) != ((), (1,)):
            found.add(LoadErrorItem(Trouble.SIZE_MISMATCH, key, state[key], shape))
    return found


@settings(max_examples=times(40, 100), deadline=None)
@given(SIZED, SIZED, st.booleans())
def test_all_that_pytorch_says_is_read(
    model: dict[str, tuple[int, ...]], state: dict[str, tuple[int, ...]], alike: bool
) -> None:
    if alike:
        state = {**{key: state.get(key, (8, 6, 1)) for key in model}, **dict(list(state.items())[:1])}
    wanted = expected(model, state)
    if wanted and not any("." in key for key in set(state) - set(model)):
        assert set(read_error(said_by_torch(Holder(model), zeros(state)), whole=True).items) == wanted
    elif not wanted:
        Holder(model).load_state_dict(zeros(state))


def everything() -> tuple[str, list[LoadErrorItem]]:
    model = {"conv.weight": (8, 6), "fc.weight": (3, 8), "gone": (2,), "also.gone": (), "same": (4,)}
    state = {"conv.weight": (8, 6, 1), "fc.weight": (3, 9), "more": (2,), "same": (4,), "yet.more": (1,)}
    text = said_by_torch(Holder(model), zeros(state))
    return text, [
        LoadErrorItem(Trouble.MISSING, "gone"), LoadErrorItem(Trouble.MISSING, "also.gone"),
        LoadErrorItem(Trouble.UNEXPECTED, "more"), LoadErrorItem(Trouble.UNEXPECTED, "yet.more"),
        LoadErrorItem(Trouble.SIZE_MISMATCH, "conv.weight", (8, 6, 1), (8, 6)),
        LoadErrorItem(Trouble.SIZE_MISMATCH, "fc.weight", (3, 9), (3, 8)),
    ]  # fmt: skip


def test_whatever_stands_around_it_is_skipped() -> None:
    text, wanted = everything()
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        tracebacks = traceback.format_exc()
        represented = repr(error)
    around = {
        "alone": text,
        "traceback": f"epoch 3\n{tracebacks}\nKilled\n",
        "log": "\n".join(f"2025-01-01 12:00:00,123 [rank0]: ERROR | {line}" for line in text.split("\n")),
        "no tabs": text.replace("\t", "        "),
        "windows": text.replace("\n", "\r\n"),
        "repr": f"failed: {represented}",
        "json": json.dumps({"message": text}),
        "twice": f"{text}\nDuring handling of the above exception, another exception occurred:\n{text}",
        "quoted": "\n".join(f"> {line}" for line in text.split("\n")),
        "half": text[text.index("Missing") :],
    }
    for name, whole in around.items():
        found = read_error(whole)
        assert (list(found.items), found.unread) == (wanted, ()), name


def test_words_of_older_versions_are_read() -> None:
    # PyTorch 0.4.1 names the model's shape as the checkpoint's.
    old = (
        "RuntimeError: Error(s) in loading state_dict for Net:\n\tsize mismatch for conv.weight: copying a param of "
        "torch.Size([8, 6]) from checkpoint, where the shape is torch.Size([8, 6, 1]) in current model."
    )
    assert read_error(old).items == (LoadErrorItem(Trouble.SIZE_MISMATCH, "conv.weight", (8, 6, 1), (8, 6)),)
    for name in ('"conv.weight"', "conv.weight"):
        text = (
            f"While copying the parameter named {name}, whose dimensions in the model are torch.Size([8, 6]) and whose "
            "dimensions in the checkpoint are torch.Size([8, 6, 1])."
        )
        assert read_error(text).items == (LoadErrorItem(Trouble.SIZE_MISMATCH, "conv.weight", (8, 6, 1), (8, 6)),)
    # PyTorch 0.3
    assert read_error("KeyError: 'unexpected key \"module.a\" in state_dict'").items == (
        LoadErrorItem(Trouble.UNEXPECTED, "module.a"),
    )
    missing = "KeyError: 'missing keys in state_dict: \"{\\'a.weight\\', \\'b\\'}\"'".replace("\\'", "'")
    assert read_error(missing).items == (
        LoadErrorItem(Trouble.MISSING, "a.weight"),
        LoadErrorItem(Trouble.MISSING, "b"),
    )


@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_could_not_copy_is_no_matter_of_shape(tmp_path: Path) -> None:
    state = {"x": torch.rand(3, 2).to_sparse(), "y": 3}
    text = said_by_torch(Holder({"x": (3, 2), "y": (2,)}), state)
    assert read_error(text).items == (
        LoadErrorItem(Trouble.NOT_COPIED, "x", (3, 2), (3, 2)),
        LoadErrorItem(Trouble.NOT_COPIED, "y"),
    )
    report = answered(tmp_path, {"x": state["x"]}, text)
    assert fixes(report) == {"x": "none", "y": "other checkpoint"}


@pytest.mark.parametrize("text", ["", "Traceback", "size mismatch", "\0" * 1000, "Missing key(s) in state_dict: "])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(CannotShow):
        read_error(text)


PIECES = ['"', "size mismatch for ", ": copying a param with shape torch.Size([", "3, ", "]) ", ", ",
          "\n", "x", "{", "\\",
          'Missing key(s) in state_dict: "']  # fmt: skip


@settings(max_examples=times(40, 100), deadline=None)
@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(CannotShow):
        read_error(text)


def test_long_texts_take_no_long_time() -> None:
    for piece in (
        "size mismatch for x",
        'Missing key(s) in state_dict: "a", ',
        "While copying the parameter named ",
        '", "',
    ):
        with pytest.raises(CannotShow):
            read_error(piece.replace('"a", ', "") * 5_000)


# ------------------------------------------------------------------------------------------------------ answering it


def test_each_line_gets_its_answer(tmp_path: Path) -> None:
    model = {"conv.weight": (8, 6), "conv2.weight": (4, 4), "up.weight": (6, 8, 1), "fc.weight": (3, 8), "gone": (2,)}
    state = {
        "conv.weight": (8, 6, 1),
        "conv2.weight": (4, 4, 1, 1),
        "up.weight": (6, 8),
        "fc.weight": (3, 9),
        "more": (2,),
    }
    state |= {"up.bias": (6,)}
    model |= {"up.bias": (6,)}
    text = said_by_torch(Holder(model), zeros(state))
    report = answered(tmp_path, zeros(state), text)
    assert fixes(report) == {
        "gone": "none", "more": "none", "conv.weight": "convert", "conv2.weight": "convert", "up.weight": "convert",
        "fc.weight": "none",
    }  # fmt: skip
    assert report.obstacles == (
        "gone: no conversion makes it", "more: the model has no such key",
        "fc.weight is (3, 9) in A and (3, 8) in the model",
    )  # fmt: skip
    (tmp_path / "error.txt").write_text(text)
    commands = typed(tmp_path, "a.pt", "--error", "error.txt")
    assert commands == [
        "convinspect convert a.pt -o a_converted1.pt --to linear --from conv1d --from conv2d "
        "--layer conv --layer conv2",
        "convinspect convert a_converted1.pt -o a_converted.pt --to conv1d --layer up",
    ]
    loaded = torch.load(tmp_path / "a_converted.pt", weights_only=True)
    again = set(read_error(said_by_torch(Holder(model), loaded)).items)
    assert again == {one.item for one in report.answers if one.fix == "none"}


def test_after_the_command_it_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    convs = nn.ModuleDict(
        {"a": nn.Conv1d(4, 6, 1), "n": nn.utils.weight_norm(nn.Conv1d(6, 3, 1)), "b": nn.Conv1d(3, 2, 3)}
    )
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "n": nn.utils.weight_norm(nn.Linear(6, 3)), "b": nn.Conv1d(3, 2, 3)})
    torch.save(convs.state_dict(), tmp_path / "a.pt")
    text = said_by_torch(model, convs.state_dict())
    result = command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text)
    assert result.returncode == 1
    assert "A will load after converting 2 layers" in result.stdout
    assert typed(tmp_path, "a.pt", "--error", "-", stdin=text) == [
        "convinspect convert a.pt -o a_converted.pt --to linear --layer a --layer n"
    ]
    model.load_state_dict(torch.load(tmp_path / "a_converted.pt", weights_only=True))
    done = command(tmp_path, "diff", "a_converted.pt", "--error", "-", stdin=text)
    assert done.returncode == 0
    assert "A would load strictly without changes" in done.stdout


def test_many_layers_are_named_in_a_short_way(tmp_path: Path) -> None:
    state: State = {f"h.{i}.conv.weight": (4, 6, 1) for i in range(12)}
    more = {f"x.{i}.conv.weight": (4, 6, 1) for i in range(3)}
    for others, layers in (({}, []), (more, ["--layer", "'h.*.conv'"])):
        text = said_by_torch(Holder({**dict.fromkeys(state, (4, 6)), **others}), zeros({**state, **others}))
        torch.save(zeros({**state, **others}), tmp_path / "a.pt")
        (one,) = json.loads(command(tmp_path, "diff", "a.pt", "--error", "-", "--format", "json", stdin=text).stdout)[
            "commands"
        ]
        assert one.split()[5:] == ["--to", "linear", *layers]


def test_prefixes_are_fixed_by_renaming(tmp_path: Path) -> None:
    shapes = {"conv.weight": (8, 6), "conv.bias": (8,), "fc.weight": (3, 8)}
    for ours, theirs, rule in (
        ("module.", "", "'module.*=*'"),
        ("", "model.", "'*=model.*'"),
        ("a.", "b.", "'a.*=b.*'"),
    ):
        model = Holder({theirs + key: shape for key, shape in shapes.items()})
        state = zeros({ours + key: shape for key, shape in shapes.items()})
        text = said_by_torch(model, state)
        assert set(fixes(answered(tmp_path, state, text)).values()) == {"rename"}
        (one,) = typed(tmp_path, "a.pt", "--error", "-", stdin=text)
        assert one == f"convinspect convert a.pt -o a_converted.pt --rename {rule}"
        model.load_state_dict(torch.load(tmp_path / "a_converted.pt", weights_only=True))
        (tmp_path / "a_converted.pt").unlink()
        said = command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text).stdout
        assert "These faults are gone after renaming its keys; whether the shapes" in said
        assert "after renaming it may find other mismatches" in said


def test_no_promise_is_made_of_shapes_that_pytorch_did_not_compare(tmp_path: Path) -> None:
    model = nn.ModuleDict({"net": nn.Linear(8, 16)})
    state = {"weight": torch.rand(16, 8, 1), "bias": torch.rand(16)}
    text = said_by_torch(model, state)
    report = answered(tmp_path, state, text)
    assert (report.verdict, report.same, set(fixes(report).values())) == ("undecided", False, {"rename"})
    typed(tmp_path, "a.pt", "--error", "-", stdin=text)
    renamed = torch.load(tmp_path / "a_converted.pt", weights_only=True)
    after = answered(tmp_path, renamed, text)
    assert (after.verdict, after.same, set(fixes(after).values())) == ("undecided", False, {"already"})
    assert "A has none of these faults; whether" in command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text).stdout
    # There is one more.
    assert fixes(answered(tmp_path, renamed, said_by_torch(model, renamed))) == {"net.weight": "convert"}


def test_a_prefix_taken_off_before_loading_is_told(tmp_path: Path) -> None:
    text = said_by_torch(Holder({"conv.weight": (8, 6)}), zeros({"conv.weight": (8, 6, 1)}))
    state = zeros({"module.conv.weight": (8, 6, 1), "module.conv.bias": (8,)})
    report = answered(tmp_path, state, text)
    assert fixes(report) == {"conv.weight": "convert"}
    assert [(one.a, one.b) for one in report.extra] == [("module.", "")]


def test_the_error_of_another_checkpoint_is_noticed(tmp_path: Path) -> None:
    text = said_by_torch(Holder({"conv.weight": (8, 6), "b": (2,)}), zeros({"conv.weight": (8, 6, 1), "b": (3,)}))
    assert set(fixes(answered(tmp_path, zeros({"other": (8, 6)}), text)).values()) == {"other checkpoint"}
    said = command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text)
    assert said.returncode == 1
    assert "The error is about another checkpoint" in said.stdout
    report = answered(tmp_path, zeros({"conv.weight": (8, 7, 1), "b": (3,)}), text)
    assert fixes(report) == {"conv.weight": "other checkpoint", "b": "none"}
    assert "conv.weight: it has (8, 7, 1), and the error says (8, 6, 1)" in report.obstacles


def test_shapes_that_only_another_checkpoint_can_give_are_told(tmp_path: Path) -> None:
    text = said_by_torch(
        Holder({"fc.weight": (8, 6), "emb.weight": (9, 5, 1)}), zeros({"fc.weight": (6, 8), "emb.weight": (9, 5)})
    )
    state = {**zeros({"fc.weight": (6, 8), "fc.bias": (6,), "emb.weight": (9, 5)})}
    report = answered(tmp_path, state, text)
    assert fixes(report) == {"fc.weight": "pytorch", "emb.weight": "like"}
    assert ["--like" in flagged(line) for line in report.obstacles] == [False, True]


def test_transformers_layers_become_linear(tmp_path: Path) -> None:
    state = zeros({"c_attn.weight": (8, 24), "c_attn.bias": (24,)})
    text = said_by_torch(Holder({"c_attn.weight": (24, 8), "c_attn.bias": (24,)}), state)
    torch.save(state, tmp_path / "a.pt")
    assert typed(tmp_path, "a.pt", "--error", "-", stdin=text) == [
        "convinspect convert a.pt -o a_converted.pt --to linear --from transformers --layer c_attn"
    ]
    loaded = torch.load(tmp_path / "a_converted.pt", weights_only=True)
    assert loaded["c_attn.weight"].shape == (24, 8)


def test_a_layer_that_must_stay_is_no_promise(tmp_path: Path) -> None:
    kernel = torch.rand(8, 6, 1)
    state = {"conv.weight": kernel, "emb.weight": kernel}
    text = said_by_torch(Holder({"conv.weight": (8, 6), "emb.weight": (8, 6, 1)}), state)
    report = answered(tmp_path, state, text)
    assert fixes(report) == {"conv.weight": "like"}
    assert report.steps == ()


# --------------------------------------------------------------------------------------------------- the command line


def test_text_comes_from_a_file_or_from_standard_input() -> None:
    path = FIXTURES / "pointnet_stnkd_load_error.txt"
    stnkd = FIXTURES / "pointnet_stnkd.pt"
    by_file = run("diff", stnkd, "--error", path)
    piped = run("diff", stnkd, "--error", "-", stdin=path.read_text())
    assert by_file.returncode == piped.returncode == 1
    assert by_file.stdout == piped.stdout
    assert_one_line(run("diff", stnkd, "--error", "-", stdin="nothing of the kind"), "load_state_dict")
    assert (
        run(
            "diff", stnkd, "--error", "-", stdin="\udcff".encode("utf-8", "surrogateescape").decode("latin-1")
        ).returncode
        == 2
    )


def test_json_is_as_documented(tmp_path: Path) -> None:
    text = said_by_torch(Holder({"conv.weight": (8, 6)}), zeros({"conv.weight": (8, 6, 1)}))
    torch.save(zeros({"conv.weight": (8, 6, 1)}), tmp_path / "a.pt")
    assert json.loads(command(tmp_path, "diff", "a.pt", "--error", "-", "--format", "json", stdin=text).stdout) == {
        "a": {"path": "a.pt", "format": "torch.save (zip)", "root": ""},
        "same": False,
        "verdict": "loads after converting",
        "obstacles": [],
        "rename": [],
        "commands": ["convinspect convert a.pt -o a_converted.pt --to linear --layer conv"],
            "pytorch": [],
            "loads_after_pytorch": False,
        "prefixes": [],
        "lines": [
            {
                "error": "size mismatch", "name": "conv.weight", "shape_checkpoint": [8, 6, 1], "shape_model": [8, 6],
                "shape_a": [8, 6, 1], "fix": "convert", "reason": "Conv1d → Linear", "layer": "conv",
            }
        ],
        "not_understood": [],
        "stops_at_first": None,
        "begins_in_the_middle": False,
        "ends_in_the_middle": False,
        "numbers_missing": None,
    }  # fmt: skip
    csv = command(tmp_path, "diff", "a.pt", "--error", "-", "--format", "csv", stdin=text).stdout
    assert csv == (
        "error,name,shape_a,shape_model,fix,notes\n"
        'size mismatch,conv.weight,"(8, 6, 1)","(8, 6)",convert,Conv1d → Linear\n'
    )


def test_escapes_in_the_text_are_not_obeyed(tmp_path: Path) -> None:
    text = said_by_torch(Holder({"a": (2,)}), zeros({"a": (2,), "\x1b[31mred": (1,)}))
    torch.save(zeros({"a": (2,), "\x1b[31mred": (1,)}), tmp_path / "a.pt")
    for fmt in ("table", "json", "csv", "md"):
        result = command(tmp_path, "diff", "a.pt", "--error", "-", "--format", fmt, stdin=text)
        assert result.returncode == 1
        assert "\x1b" not in result.stdout


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(6, 4, 1), nn.BatchNorm1d(4)


@pytest.mark.parametrize(("saved", "wanted"), [("module.", ""), ("", "module."), ("model.", "net."), ("", "model.")])
def test_the_count_of_batches_that_pytorch_never_misses_is_renamed_with_the_rest(
    tmp_path: Path, saved: str, wanted: str
) -> None:
    def model(prefix: str) -> nn.Module:
        outer: nn.Module = Small()
        for part in reversed(prefix.split(".")[:-1]):
            inner, outer = outer, nn.Module()
            outer.add_module(part, inner)
        return outer

    state = model(saved).state_dict()
    text = said_by_torch(model(wanted), state)
    report = answered(tmp_path, state, text)
    assert report.obstacles == ()
    assert set(fixes(report).values()) == {"rename"}
    typed(tmp_path, "a.pt", "--error", "-", stdin=text)
    model(wanted).load_state_dict(torch.load(tmp_path / "a_converted.pt", weights_only=True))


def test_a_training_that_was_given_whole_is_told_where_its_weights_are(tmp_path: Path) -> None:
    training = {"model": Small().state_dict(), "epoch": 3, "args": {"lr": 0.1}}
    text = said_by_torch(Small(), training)
    report = answered(tmp_path, training, text)
    found = fixes(report)
    assert [found[key] for key in ("model", "epoch", "args")] == ["pass its root"] * 3
    assert found["conv.weight"] == "already"
    said = command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text)
    assert (said.returncode, 'checkpoint["model"]' in said.stdout) == (1, True)
    assert "not about this file" not in said.stdout
    assert "will still not load" not in said.stdout


def test_an_error_of_before_the_file_was_fixed_asks_for_nothing(tmp_path: Path) -> None:
    state = Small().state_dict()
    text = said_by_torch(Small(), {f"module.{key}": value for key, value in state.items()})
    report = answered(tmp_path, state, text)
    assert (report.clear, report.verdict) == (True, "undecided")
    said = command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text)
    assert (said.returncode, "type:" in said.stdout) == (1, False)


def test_keys_that_a_terminal_broke_are_read_whole() -> None:
    text, wanted = everything()
    for width in (60, 72, 80):
        folded = "\n".join(line[at : at + width] for line in text.split("\n") for at in range(0, len(line), width))
        assert list(read_error(folded).items) == wanted, width


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_an_error_that_powershell_kept_is_read(tmp_path: Path, encoding: str) -> None:
    state = zeros({"conv.weight": (8, 6, 1)})
    (tmp_path / "e.txt").write_text(said_by_torch(Holder({"conv.weight": (8, 6)}), state), encoding=encoding)
    torch.save(state, tmp_path / "a.pt")
    said = command(tmp_path, "diff", "a.pt", "--error", "e.txt")
    assert (said.returncode, "A will load after converting 1 layer" in said.stdout) == (1, True)


def test_values_of_an_error_cannot_be_compared(tmp_path: Path) -> None:
    torch.save(zeros({"conv.weight": (8, 6, 1)}), tmp_path / "a.pt")
    assert_one_line(command(tmp_path, "diff", "a.pt", "--error", "-", "--values", stdin="x"), "--values")


def test_a_prefix_is_named_once(tmp_path: Path) -> None:
    state = Small().state_dict()
    text = said_by_torch(Small(), {f"module.{key}": value for key, value in state.items()})
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "a.pt")
    assert "prefix: prefix" not in command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text).stdout


def test_a_text_without_its_beginning_takes_the_promise_back(tmp_path: Path) -> None:
    state = zeros({"conv.weight": (8, 6, 1), "fc.weight": (3, 8)})
    text = said_by_torch(Holder({"conv.weight": (8, 6), "fc.weight": (3, 8)}), state)
    text = text[text.index("size mismatch") :]
    report = answered(tmp_path, state, text)
    assert (report.verdict, report.headless, len(report.steps)) == ("undecided", True, 1)
    said = command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text)
    assert said.returncode == 1
    assert "not certain: the text begins in the middle of the error" in said.stdout


def test_a_line_that_was_not_understood_takes_the_promise_back(tmp_path: Path) -> None:
    state = zeros({"conv.weight": (8, 6, 1), "fc.weight": (3, 8)})
    text = said_by_torch(Holder({"conv.weight": (8, 6), "fc.weight": (3, 8)}), state)
    assert answered(tmp_path, state, text).verdict == "loads after converting"
    for more in (
        "size mismatch for fc.weight: the shapes are (3, 9) and (3, 8)",
        "\tsize mismatch for fc.weight: copying a param with shape torch.Size([3, 9",
        "some weights could not be loaded, because of an incompatible head",
        "\tSomething else that a module's own hook has to say",
    ):
        report = answered(tmp_path, state, f"{text}\n{more}\n")
        assert (report.verdict, report.same) == ("undecided", False), more
        assert report.unread == (more.strip(),)
        assert report.steps
    said = command(tmp_path, "diff", "a.pt", "--error", "-", stdin=f"{text}\n{more}")
    assert said.returncode == 1
    assert "Whether A will load is not certain: 1 line of the text was not understood" in said.stdout
    assert "not understood: Something else" in said.stdout


@pytest.mark.parametrize(
    "line",
    [
        "...", "\t...", "…", "[...]", "... (2 more lines)", "<output truncated>", "[truncated]", "--snip--", "(...)",
        "and 25 more lines", "... 12 lines omitted ...", "[output clipped]", "--More--", "<snip>", "~~~ 34 lines ~~~",
        "Output was trimmed for performance reasons.", "lines 1-20/44 (45%)", "(see the log for the rest)",
        "..... [Message truncated due to size]", "[Previous line repeated 12 more times]", "Show more (y/n)",
        "[7 lines skipped]", "\t… +14 lines (ctrl+r to expand)",
    ],
)  # fmt: skip
def test_lines_that_were_left_out_take_the_promise_back(line: str) -> None:
    text = (
        "RuntimeError: Error(s) in loading state_dict for Net:\n"
        "\tsize mismatch for a.weight: copying a param with shape torch.Size([6, 4, 1]) from checkpoint, the shape in"
        " current model is torch.Size([6, 4]).\n"
    )
    again = "\tsize mismatch" + text.partition("\tsize mismatch")[2].replace("a.weight", "b.weight")
    assert not read_text(text + again).unread
    for shown in (text + line, f"{text}{line}\n", f"{text}{line}\n{again}"):
        assert read_text(shown).unread


def test_dots_above_the_first_complaint_are_of_the_traceback() -> None:
    text = 'RuntimeError: Error(s) in loading state_dict for Net:\n\tMissing key(s) in state_dict: "a".\n'
    assert not read_text(f"Traceback (most recent call last):\n  ...\n{text}").unread


def test_a_loader_that_stops_at_the_first_fault_promises_nothing(tmp_path: Path) -> None:
    state = zeros({"conv.weight": (8, 6, 1), "fc.weight": (3, 8)})
    text = "Cannot load unet because conv.weight expected shape torch.Size([8, 6]), but got torch.Size([8, 6, 1])."
    report = answered(tmp_path, state, text)
    assert (report.verdict, report.stops, fixes(report)) == ("undecided", "diffusers", {"conv.weight": "convert"})
    said = command(tmp_path, "diff", "a.pt", "--error", "-", stdin=text).stdout
    assert "diffusers stops at the first fault; after converting 1 layer this fault is gone" in said


def test_the_last_part_of_a_name_is_enough_where_one_key_ends_so(tmp_path: Path) -> None:
    said = 'ValueError: Trying to set a tensor of shape torch.Size([8, 6, 1]) in "weight" (which has shape '
    said += "torch.Size([8, 6])), this looks incorrect."
    one = zeros({"conv.weight": (8, 6, 1), "fc.weight": (3, 8)})
    assert fixes(answered(tmp_path, one, said)) == {"conv.weight": "convert"}
    two = zeros({"conv.weight": (8, 6, 1), "more.weight": (8, 6, 1)})
    report = answered(tmp_path, two, said)
    assert (fixes(report), report.verdict) == ({"weight": "which"}, "undecided")


def test_names_of_adapters_are_passed_over(tmp_path: Path) -> None:
    key = "base_model.model.conv.lora_A.{}weight"
    text = said_by_torch(Holder({key.format("default."): (4, 6)}), zeros({key.format("default."): (4, 6, 1)}))
    report = answered(tmp_path, zeros({key.format(""): (4, 6, 1)}), text)
    assert set(fixes(report).values()) != {"other checkpoint"}


def test_keys_that_a_report_folds_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    state = zeros({f"h.{n}.conv.weight": (8, 6, 1) for n in (0, 2, 4)} | {"odd.weight": (3,)})
    text = (
        "Net LOAD REPORT from: here\n"
        "Key                   | Status   | \n"
        "----------------------+----------+-\n"
        "h.{0...4}.conv.weight | MISMATCH | Reinit due to size mismatch - ckpt: torch.Size([8, 6, 1]) vs "
        "model:torch.Size([8, 6])\n"
    )
    report = answered(tmp_path, state, text)
    assert fixes(report) == dict.fromkeys((f"h.{n}.conv.weight" for n in (0, 2, 4)), "convert")
    assert report.verdict == "undecided"


@pytest.mark.parametrize(("saved", "wanted"), [("module.", ""), ("", "net."), ("model.", "net.")])
def test_what_pytorch_makes_itself_is_made_under_another_prefix_too(tmp_path: Path, saved: str, wanted: str) -> None:
    """The spectral norm of before 1.1, which kept the weight and not the vector v."""
    model = nn.Module()
    place = model
    for part in wanted.split(".")[:-1]:
        place.add_module(part, nn.Module())
        place = place._modules[part]  # type: ignore[assignment]
    place.conv = nn.utils.spectral_norm(nn.Conv1d(4, 6, 1))
    held = {key.rpartition(".")[2]: value for key, value in model.state_dict().items() if not key.endswith("_v")}
    held["weight"] = torch.rand(6, 4, 1)
    state = {f"{saved}conv.{leaf}": value for leaf, value in held.items()}
    text = said_by_torch(model, state)
    report = answered(tmp_path, state, text)
    assert (report.verdict, report.obstacles, set(fixes(report).values())) == ("undecided", (), {"rename"})
    typed(tmp_path, "a.pt", "--error", "-", stdin=text)
    model.load_state_dict(torch.load(tmp_path / "a_converted.pt", weights_only=True))


@pytest.mark.filterwarnings("ignore")
def test_lazy_modules_under_another_prefix_take_what_comes(tmp_path: Path) -> None:
    model = nn.ModuleDict({"net": nn.ModuleDict({"fc": nn.LazyLinear(3)})})
    state = {f"module.fc.{key}": value for key, value in nn.Linear(5, 3).state_dict().items()}
    text = said_by_torch(model, state)
    assert answered(tmp_path, state, text).obstacles == ()
    typed(tmp_path, "a.pt", "--error", "-", stdin=text)
    model.load_state_dict(torch.load(tmp_path / "a_converted.pt", weights_only=True))
