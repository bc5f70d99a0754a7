"""`convert` says what it leaves behind, heeds every choice, and takes no layer that its owner reads by itself."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from support.conversions import load
from support.in_process import run
from support.paths import FIXTURES
from support.program import without_wrote


def plan_of(*words: object) -> Any:
    import json

    done = run("convert", *words, "--dry-run", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ------------------------------------------------------------------------------------------------- a full disk


def test_a_disk_that_is_too_small_is_noticed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from convinspect.checkpoint import open_checkpoint
    from convinspect.errors import CannotWrite
    from convinspect.writing.state_dict import resave

    torch.save({"c.weight": torch.randn(128, 128, 1)}, tmp_path / "a.pt")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1))
    for name in ("b.pt", "b.safetensors"):
        with pytest.raises(CannotWrite, match="1 bytes free, 65,536 are needed"):
            resave(open_checkpoint(tmp_path / "a.pt"), (), {}, [], tmp_path / name)
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt"]


# ------------------------------------------------------------------------------------------- nothing lost unsaid


def _trained(path: Path) -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 4, 1)))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 6, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)


def test_state_of_weights_that_get_other_numbers_is_not_lost_unasked(tmp_path: Path) -> None:
    _trained(tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--fuse"]
    for more, line in (
        ([], "--drop-optimizer leaves it out, --state-dict writes the weights alone"),
        (["--keep-optimizer"], "cannot be kept in a file that is saved as a plain state_dict"),
    ):
        done = run(*words, *more)
        assert done.returncode == 2
        assert line in done.stderr
    assert not (tmp_path / "b.pt").exists()
    for more in (["--drop-optimizer"], ["--state-dict"]):
        done = run(*words, *more, "--force")
        assert done.returncode == 0, done.stderr
        assert "only model is in the new file, as a plain state_dict" in done.stderr
        assert list(load(tmp_path / "b.pt")) == ["0.bias", "0.weight"]


@pytest.mark.parametrize("target", ["b.safetensors", "b.pt"])
def test_a_plan_names_the_same_losses_as_the_run(tmp_path: Path, target: str) -> None:
    words = ["convert", FIXTURES / "adamw.pt", "-o", tmp_path / target, "--to", "linear"]
    words += [] if target.endswith(".safetensors") else ["--state-dict"]
    planned, done = run(*words, "--dry-run"), run(*words)
    assert planned.returncode == done.returncode == 0
    assert "root optimizer" in done.stderr
    assert done.stderr == f"{planned.stderr}wrote {tmp_path / target}\n"
    assert "optimizer tensors" not in planned.stdout


# ------------------------------------------------------------------------------------------------------- --like


def test_like_lists_what_one_side_alone_has(tmp_path: Path) -> None:
    torch.save({"w.weight": torch.randn(4, 6, 1), "b.bias": torch.randn(3)}, tmp_path / "a.pt")
    torch.save({"w.weight": torch.randn(4, 6), "z.weight": torch.randn(3, 3)}, tmp_path / "b.pt")
    done = run("convert", tmp_path / "a.pt", "--like", tmp_path / "b.pt", "--dry-run")
    assert "here alone: b.bias" in done.stdout
    assert "there alone: z.weight" in done.stdout
    assert "still not load" in done.stdout
    found = plan_of(tmp_path / "a.pt", "--like", tmp_path / "b.pt")
    assert (found["only_here"], found["only_there"]) == (["b.bias"], ["z.weight"])
    assert found["converted"][0]["assumed"] == ["stride 1", "padding 0", "groups 1", "not transposed"]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("layer", "doubt"),
    [
        (nn.ConvTranspose1d(4, 4, 1), True),
        (nn.ConvTranspose1d(4, 6, 1, bias=False), True),
        (nn.Conv1d(4, 4, 1), True),
        (nn.Conv1d(4, 6, 1, bias=False), True),
        (nn.Conv1d(4, 6, 1), False),
    ],
)
def test_what_may_be_transposed_is_said_to_be_taken_for_plain(
    tmp_path: Path, layer: nn.Module, doubt: bool, whole: bool
) -> None:
    """Without a bias, and with as many outputs as inputs, a ConvTranspose stores a convolution's very shapes."""
    model = nn.ModuleDict({"c": layer})
    torch.save(model if whole else model.state_dict(), tmp_path / "a.pt")
    words = ["--to", "linear", *(["--state-dict"] if whole else [])]
    converted = plan_of(tmp_path / "a.pt", *words)["converted"]
    if whole:
        assert [one["assumed"] for one in converted] == ([] if isinstance(layer, nn.ConvTranspose1d) else [[]])
        return
    taken = ["stride 1", "padding 0", "groups 1", *(["not transposed"] if doubt else [])]
    assert converted[0]["assumed"] == taken
    said = "groups 1 and not transposed" if doubt else "padding 0 and groups 1"
    assert f"{said}, which a state_dict does not record" in run("convert", tmp_path / "a.pt", *words, "-n").stdout
    verified = run("verify", tmp_path / "a.pt").stdout
    assert f"assumed: {', '.join(taken)}, which a state_dict does not record" in verified


def test_halves_of_a_low_rank_pair_are_not_transposed(tmp_path: Path) -> None:
    state = {"q.lora_A.weight": torch.randn(2, 4, 1), "q.lora_B.weight": torch.randn(6, 2, 1)}
    torch.save(state, tmp_path / "a.pt")
    found = plan_of(tmp_path / "a.pt", "--to", "linear")["converted"]
    assert [one["assumed"] for one in found] == [["stride 1", "padding 0", "groups 1"]] * 2


def test_like_heeds_layers_exclusions_and_kinds(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(4, 6, 1), "b.weight": torch.randn(4, 6, 1, 1)}, tmp_path / "a.pt")
    torch.save({"a.weight": torch.randn(4, 6), "b.weight": torch.randn(4, 6)}, tmp_path / "b.pt")
    for words, names in (
        ([], ["a", "b"]), (["--layer", "b"], ["b"]), (["--exclude", "b"], ["a"]), (["--from", "conv2d"], ["b"]),
        (["--from", "any"], ["a", "b"]),
    ):  # fmt: skip
        found = plan_of(tmp_path / "a.pt", "--like", tmp_path / "b.pt", *words)
        assert [one["name"] for one in found["converted"]] == names


@pytest.mark.parametrize(
    ("options", "word"), [({"stride": 2}, "stride=2"), ({"padding": 1}, "padding=1"), ({"groups": 6}, "groups=6")]
)
def test_like_refuses_what_a_linear_cannot_do(tmp_path: Path, options: Any, word: str) -> None:
    conv = nn.Conv1d(6, 6, 1, **options)
    torch.save(nn.Sequential(conv), tmp_path / "a.pt")
    torch.save({"0.weight": conv.weight.detach().squeeze(-1), "0.bias": conv.bias}, tmp_path / "b.pt")
    found = plan_of(tmp_path / "a.pt", "--like", tmp_path / "b.pt", "--state-dict")
    assert found["converted"] == []
    assert word in found["refused"][0]["reason"]


def test_like_says_what_differs_and_was_not_chosen(tmp_path: Path) -> None:
    before = nn.ModuleDict({"a": nn.Conv1d(6, 4, 1), "b": nn.Conv1d(6, 4, 1), "n": nn.BatchNorm1d(4)})
    after = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(6, 4), "n": nn.BatchNorm1d(5)})
    torch.save(before.state_dict(), tmp_path / "a.pt")
    torch.save(after.state_dict(), tmp_path / "b.pt")
    done = run("convert", tmp_path / "a.pt", "--like", tmp_path / "b.pt", "--layer", "a", "--dry-run")
    assert "it differs too, and was not chosen" in done.stdout
    assert "a real difference" in done.stdout
    assert "still not load" in done.stdout


@pytest.mark.parametrize("to", ["linear", "conv1d", "conv3d"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_transformers_layers_come_back_as_they_were(tmp_path: Path, to: str, suffix: str) -> None:
    state = {"h.c_fc.weight": torch.randn(8, 32), "h.c_fc.bias": torch.randn(32)}
    paths = [tmp_path / f"{name}{suffix}" for name in "abc"]
    (save_file if suffix == ".safetensors" else torch.save)(state, paths[0])
    assert run("convert", paths[0], "-o", paths[1], "--to", to, "--from", "transformers").returncode == 0
    done = run("convert", paths[1], "-o", paths[2], "--like", paths[0])
    assert done.returncode == 0, done.stderr
    assert torch.equal(load(paths[2])["h.c_fc.weight"], state["h.c_fc.weight"])
    if suffix == ".safetensors":
        assert paths[0].read_bytes() == paths[2].read_bytes()


def test_fuse_heeds_exclusions(tmp_path: Path) -> None:
    norm = nn.utils.parametrizations.weight_norm
    torch.save(nn.ModuleDict({"a": norm(nn.Conv1d(6, 4, 1)), "b": norm(nn.Conv1d(6, 4, 1))}).state_dict(),
               tmp_path / "a.pt")  # fmt: skip
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--fuse", "--to", "linear", "--exclude"]
    assert run(*words, "b").returncode == 0
    keys = set(load(tmp_path / "b.pt"))
    assert "a.weight" in keys
    assert "b.parametrizations.weight.original1" in keys
    assert run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--fuse", "--exclude", "nosuch").returncode == 2


# ------------------------------------------------------------------------------------------------------ choices


def test_an_exclusion_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    done = run("convert", FIXTURES / "pointnet_stnkd.pt", "--to", "linear", "--dry-run", "--exclude", "conv9")
    assert done.returncode == 2
    assert "conv9" in done.stderr
    assert "closest" in done.stderr
    found = plan_of(FIXTURES / "pointnet_stnkd.pt", "--to", "linear", "--exclude", "conv[12]")
    assert [one["name"] for one in found["converted"]] == ["conv3"]


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (nn.ModuleDict({"att": nn.MultiheadAttention(8, 2)}), {"att", "att.out_proj"}),
        (nn.ModuleDict({"enc": nn.TransformerEncoderLayer(8, 2, 12)}),
         {"enc.self_attn", "enc.self_attn.out_proj", "enc.linear1", "enc.linear2"}),
        (nn.ModuleDict({"gru": nn.GRU(4, 5)}), {"gru"}),
        (nn.ModuleDict({"cell": nn.LSTMCell(4, 5)}), {"cell"}),
    ],
)  # fmt: skip
def test_weights_that_their_owner_reads_by_itself_stay_and_are_named(
    tmp_path: Path, model: nn.Module, kept: set[str]
) -> None:
    both = nn.ModuleDict({"fc": nn.Linear(3, 4), **dict(model.named_children())})
    torch.save(both.state_dict(), tmp_path / "a.pt")
    found = plan_of(tmp_path / "a.pt", "--to", "conv1d")
    assert [one["name"] for one in found["converted"]] == ["fc"]
    assert {one["name"] for one in found["refused"]} == kept
    linear = [name for name in kept if name.endswith(("out_proj", "linear1"))]
    if linear:
        found = plan_of(tmp_path / "a.pt", "--to", "conv1d", "--layer", linear[0])
        assert [one["name"] for one in found["converted"]] == [linear[0]]


def test_an_embedding_is_taken_when_it_is_named(tmp_path: Path) -> None:
    shared = torch.randn(9, 4)
    torch.save({"emb.weight": shared, "head.weight": shared, "fc.weight": torch.randn(3, 4),
                "fc.bias": torch.randn(3)}, tmp_path / "a.pt")  # fmt: skip
    found = plan_of(tmp_path / "a.pt", "--to", "conv1d")
    assert [one["name"] for one in found["converted"]] == ["fc"]
    assert {one["name"] for one in found["refused"]} == {"emb", "head"}
    found = plan_of(tmp_path / "a.pt", "--to", "conv1d", "--layer", "emb", "--layer", "head")
    assert {one["name"] for one in found["converted"]} == {"emb", "head"}
    found = plan_of(tmp_path / "a.pt", "--to", "conv1d", "--layer", "head")
    assert "tied to emb.weight" in found["refused"][0]["reason"]


def test_groups_that_nobody_knows_cannot_be_expanded(tmp_path: Path) -> None:
    torch.save({"g.weight": torch.randn(8, 4, 1)}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "--to", "linear", "--groups", "expand", "--dry-run")
    assert done.returncode == 2
    assert "--model" in done.stderr


def test_sharded_targets_get_advice_that_leads_on(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    done = run("convert", FIXTURES / "sharded", "-o", tmp_path / "there", "--to", "linear")
    assert "use --force to overwrite it, or give another -o" in done.stderr
    done = run("convert", FIXTURES / "sharded", "-o", tmp_path / "there", "--to", "linear", "--force")
    assert "'mine.txt', which the new folder does not" in done.stderr


def test_like_says_what_else_keeps_the_file_from_loading(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.randn(4, 6, 1)}, tmp_path / "a.pt")
    torch.save({"module.conv.weight": torch.randn(4, 6)}, tmp_path / "b.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt")
    assert done.returncode == 0
    assert "conv.weight is module.conv.weight in b.pt" in done.stderr
    renamed = ("--rename", "conv=module.conv")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "d.pt", "--like", tmp_path / "b.pt", *renamed)
    assert (done.returncode, without_wrote(done.stderr)) == (0, "")
    assert list(torch.load(tmp_path / "d.pt")) == ["module.conv.weight"]


def test_a_matrix_turned_over_without_evidence_is_said(tmp_path: Path) -> None:
    torch.save({"e.weight": torch.randn(10, 8)}, tmp_path / "a.pt")
    torch.save({"e.weight": torch.randn(8, 10)}, tmp_path / "b.pt")
    done = run("convert", tmp_path / "a.pt", "--like", tmp_path / "b.pt", "--dry-run")
    assert "is taken for (10, 8) with rows and columns" in done.stdout.replace("\n", " ")


def test_a_head_tied_to_an_embedding_says_what_converts_both(tmp_path: Path) -> None:
    shared = torch.randn(10, 8)
    torch.save({"embed.weight": shared, "head.weight": shared, "fc.weight": torch.randn(3, 8)}, tmp_path / "a.pt")
    found = json.loads(run("convert", tmp_path / "a.pt", "--to", "conv1d", "-n", "--format", "json").stdout)
    reason = next(one["reason"] for one in found["refused"] if one["name"] == "head")
    assert reason.startswith("tied to embed.weight")
    assert reason.endswith("--layer head --layer embed converts them together")
    words = shlex.split(reason.partition("; ")[2].removesuffix(" converts them together"))
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "conv1d", *words)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "b.pt")["head.weight"].shape == load(tmp_path / "b.pt")["embed.weight"].shape == (10, 8, 1)
