"""What `shapes` says: its JSON contract, its totals, its table, and that no name from a file is obeyed."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import weight_norm
from torch.nn.utils.prune import l1_unstructured

from convinspect.checking.scan import check
from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.formats import read_contents
from convinspect.layers.find import find_layers
from convinspect.layers.folding import fold, unfolded
from convinspect.layers.select import select
from convinspect.render.emit import emit
from convinspect.render.format import Format
from convinspect.render.table import Table, plain
from convinspect.showing.shapes import layer_payload, listing_payload, listing_table, totals
from support.paths import FIXTURES
from support.saving import layers_in, opened, zeros

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

ALWAYS = {"name", "kind", "evidence", "pointwise", "weight", "numel", "nbytes", "tied_to", "notes"}
CHANNELS = {"in_channels", "out_channels", "kernel_size", "patch", "stride", "padding", "dilation", "groups"}
FEATURES = {"in_features", "out_features"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


def table_of(checkpoint: Checkpoint, everything: bool = True, folded: bool = False) -> Table:
    layers = find_layers(checkpoint)
    return listing_table(checkpoint, layers, fold(layers) if folded else unfolded(layers), everything)


def payload_of(checkpoint: Checkpoint) -> dict[str, Any]:
    layers = find_layers(checkpoint)
    return listing_payload(checkpoint, layers, layers)


def written(thing: object, fmt: Format, out: io.StringIO | None = None, color: bool | None = None) -> str:
    out = out or io.StringIO()
    emit(thing, fmt, out, color=color)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------- JSON

MODEL = nn.ModuleDict(
    {
        "conv": nn.Conv1d(6, 4, 1, stride=2, padding="valid", groups=2),
        "up": nn.ConvTranspose2d(6, 4, (1, 2), padding=(0, 1)),
        "fc": nn.Linear(4, 2),
        "normed": weight_norm(nn.Linear(4, 2)),
        "emb": nn.Embedding(5, 3),
        "bn": nn.BatchNorm1d(4),
        "att": nn.MultiheadAttention(4, 2),
    }
)


def test_keys_of_the_contract(folder: Path) -> None:
    state = MODEL.state_dict() | {"cls_token": torch.zeros(1, 1, 4)}
    payload = payload_of(opened(folder, state))
    assert set(payload) == {"path", "format", "root", "roots", "layers", "totals", "problems", "notes"}
    keys = {layer["name"]: set(layer) - ALWAYS for layer in payload["layers"]}
    assert all(set(layer) >= ALWAYS for layer in payload["layers"])
    assert keys["conv"] == keys["up"] == {"bias"} | CHANNELS
    assert keys["fc"] == keys["att.out_proj"] == {"bias"} | FEATURES
    assert keys["normed"] == {"bias", "norm"} | FEATURES
    # A matrix named so is more likely an Embedding, which has no features.
    assert keys["emb"] == keys["bn"] == keys["att"] == {"bias"}
    assert keys["cls_token"] == set()


def test_null_is_what_the_file_does_not_record(folder: Path) -> None:
    layer = layer_payload(layers_in(folder, MODEL.state_dict())["conv"])
    assert {key: layer[key] for key in CHANNELS} == {
        "in_channels": None,
        "out_channels": 4,
        "kernel_size": [1],
        "patch": False,
        "stride": None,
        "padding": None,
        "dilation": None,
        "groups": None,
    }
    assert layer["weight"] == {"shape": [4, 3, 1], "dtype": "float32"}
    assert (layer["kind"], layer["evidence"], layer["pointwise"], layer["bias"]) == ("Conv1d", "shape", True, True)
    assert (layer["numel"], layer["nbytes"], layer["tied_to"]) == (16, 64, [])


def test_a_whole_module_records_them(folder: Path) -> None:
    layers = layers_in(folder, MODEL)
    conv, up = layer_payload(layers["conv"]), layer_payload(layers["up"])
    assert [conv[key] for key in ("in_channels", "stride", "padding")] == [6, [2], "valid"]
    assert [conv[key] for key in ("dilation", "groups")] == [[1], 2]
    assert [up[key] for key in ("in_channels", "out_channels", "kernel_size")] == [6, 4, [1, 2]]
    assert [up[key] for key in ("kind", "stride", "padding")] == ["ConvTranspose2d", [1, 1], [0, 1]]
    assert layer_payload(layers["emb"])["kind"] == "Embedding"


def test_json_is_the_payload(folder: Path) -> None:
    payload = payload_of(opened(folder, MODEL.state_dict()))
    assert json.loads(written(payload, Format.json)) == payload


# ----------------------------------------------------------------------------------------------------- totals


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors of which some are others, or parts of one large one."""
    state: dict[str, torch.Tensor] = {}
    large = torch.zeros(8, 3, 1)
    for i in range(draw(st.integers(1, 6))):
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.int64]))
        fresh = torch.zeros(draw(st.integers(1, 4)), draw(st.integers(1, 4)), 1, dtype=dtype)
        part = large[draw(st.integers(0, 3)) :]
        state[f"layer{i}.weight"] = draw(st.sampled_from([fresh, part, *state.values()]))
    return state


@settings(max_examples=60, deadline=None)
@given(states())
def test_totals_count_each_run_of_bytes_once(folder: Path, state: dict[str, torch.Tensor]) -> None:
    distinct = {(t.data_ptr(), t.numel()): t for t in state.values()}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}
    totals = payload_of(opened(folder, state))["totals"]
    assert totals["parameters"] == sum(t.numel() for t in distinct.values())
    assert totals["tensor_nbytes"] == sum(t.nbytes for t in distinct.values())
    assert totals["storage_nbytes"] == sum(storages.values())
    assert totals["disk_nbytes"] == (folder / "model.pt").stat().st_size
    assert totals["tensors"] == len(state)


def test_totals_of_a_model(folder: Path) -> None:
    tied = nn.Sequential(nn.Conv1d(6, 4, 1), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Conv1d(6, 4, 1), nn.LSTM(2, 3))
    tied[3].weight = tied[0].weight
    checkpoint = opened(folder, tied.state_dict())
    totals = payload_of(checkpoint)["totals"]
    assert totals["parameters"] == sum(p.numel() for p in tied.parameters())
    assert (totals["layers"], totals["pointwise"]) == (3, 2)
    (line,) = table_of(checkpoint).summary
    assert plain(line).startswith(f"3 conv and linear layers, 2 pointwise · {totals['parameters']} parameters · ")


# ------------------------------------------------------------------------------------------------------- table


def test_rows_and_their_machine_values(folder: Path) -> None:
    checkpoint = opened(folder, MODEL)
    rows = list(csv.DictReader(io.StringIO(written(table_of(checkpoint), Format.csv))))
    layers = find_layers(checkpoint)
    assert [row["name"] for row in rows] == [layer.name for layer in layers]
    for row, layer in zip(rows, layers, strict=True):
        assert (row["kind"], row["dtype"]) == (layer.kind, layer.weight.dtype)
        assert row["weight_shape"] == "×".join(map(str, layer.weight.shape))
        assert row["bias"] == str(layer.bias is not None).lower()
        counted = sum(t.numel for leaf, t in layer.tensors.items() if not leaf.startswith(("running_", "num_batches")))
        assert (int(row["parameters"]), int(row["nbytes"])) == (counted, layer.nbytes)
    assert rows[0] == {
        "name": "conv",
        "kind": "Conv1d",
        "weight_shape": "4×3×1",
        "in_out": "6 → 4",
        "kernel_size": "1",
        "bias": "true",
        "dtype": "float32",
        "parameters": "16",
        "nbytes": "64",
        "notes": "pointwise, groups 2, stride 2",
        "evidence": "module",
        "pointwise": "true",
    }


def test_folded_rows_add_up(folder: Path) -> None:
    model = nn.Sequential(*(nn.Conv1d(6, 4, 1) for _ in range(3)), nn.Linear(4, 2))
    table = table_of(opened(folder, model.state_dict()), folded=True)
    assert [plain(row[0]) for row in table.rows] == ["{0–2}", "3"]
    assert plain(table.rows[0][7]) == "84"
    assert plain(table.rows[0][9]) == "×3, pointwise, assumed"
    assert table.raw[0][7:9] == (84, 336)
    assert sum(int(str(raw[7])) for raw in table.raw) == sum(p.numel() for p in model.parameters())


def test_a_layer_without_a_name_is_the_root(folder: Path) -> None:
    checkpoint = opened(folder, nn.Linear(4, 2).state_dict())
    assert table_of(checkpoint).rows[0][0] == "(root)"
    assert payload_of(checkpoint)["layers"][0]["name"] == ""


def notes_of(folder: Path, thing: object, everything: bool = True) -> str:
    return "\n".join(plain(note) for note in table_of(opened(folder, thing), everything).notes)


def test_footnotes(folder: Path) -> None:
    wrong = zeros(**{"module.a.weight": (4, 6, 1), "module.a.bias": (5,), "module.g_only.weight_g": (4, 1, 1)})
    notes = notes_of(folder, {"model": wrong, "ema": zeros(a__weight=(4, 6), b__weight=(4,))})
    assert "a: its bias (5,) does not fit its weight (4, 6, 1)" in notes
    assert "assumed: a state_dict does not record stride, padding and groups" in notes
    assert "incomplete: half of a pair of tensors is missing" in notes
    assert "3 of 3 keys have 'module.', which is not shown" in notes
    assert "other roots: ema (2 tensors); --root chooses" in notes


def test_the_most_useful_columns_stay_longest(folder: Path) -> None:
    from convinspect.render.fitting import fit

    table = table_of(open_checkpoint(FIXTURES / "gpt2_names.pt"), everything=False)
    for width, hidden in ((90, ["in → out", "size"]), (80, ["in → out", "params", "size"])):
        fitted = fit(table, width)
        assert [column.title for column in fitted.columns][:3] == ["name", "kind", "weight"]
        assert f": {', '.join(hidden)};" in str(plain(fitted.notes[-1])).replace("\n", " ")
    # The name, the kind and the notes have no room side by side.
    for width in (70, 59, 50, 40, 30):
        (column,) = fit(table_of(open_checkpoint(FIXTURES / "gpt2_names.pt"), everything=False), width).columns
        assert column.title.startswith("name\n")
        assert {"kind", "weight", "notes"} <= set(column.title.split())
        assert any("ambiguous" in plain(note) for note in fitted.notes)


def test_what_is_left_out_is_counted(folder: Path) -> None:
    checkpoint = opened(folder, MODEL.state_dict())
    layers = find_layers(checkpoint)
    table = listing_table(checkpoint, layers, unfolded(layers[:3]), everything=False)
    (note,) = (plain(note) for note in table.notes if plain(note).startswith("not shown"))
    assert note == "not shown: Linear ×2, Embedding, BatchNorm, MultiheadAttention; --all shows all"


# ----------------------------------------------------------------------------------------- names that mean harm

HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "[bold red]loud[/bold red]",
    "[link=https://example.org]click[/]",
    ":smile:",
    "two\nlines",
    "back\r\b\x7f",
    "\u202etfel",
    "\x9b2J",
    "a|b`c*<script>",
    "{0–3}",
]
SGR = re.compile(r"\x1b\[[0-9;]*m")
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e]")


class Terminal(io.StringIO):
    """Says that it is a terminal, so that what is written has colours."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def hostile(folder: Path) -> Checkpoint:
    kernel = torch.zeros(4, 6, 1)
    state = {f"{name}.weight": kernel for name in HOSTILE} | {f"{name}.bias": torch.zeros(5) for name in HOSTILE}
    return opened(folder, {"\x1b[5mroot": state, "\x1b[5mother[bold]": {"w": torch.zeros(1)}})


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_obeys_no_name(hostile: Checkpoint, terminal: bool, color: bool) -> None:
    text = written(table_of(hostile), Format.table, Terminal() if terminal else None, color)
    assert not UNSAFE.search(SGR.sub("", text) if color else text)
    assert "\x1b[31mred" not in text
    assert "\x1b[5m" not in text
    bare = SGR.sub("", text)
    if not terminal:
        for name in ("[bold red]loud[/bold red]", r"\x1b[31mred", r"two\nlines".replace(r"\n", r"\x0a"), ":smile:"):
            assert name in bare


def test_machine_formats_obey_no_name(hostile: Checkpoint) -> None:
    text = written(payload_of(hostile), Format.json)
    assert not UNSAFE.search(text)
    assert {layer["name"] for layer in json.loads(text)["layers"]} == set(HOSTILE)
    assert json.loads(text)["root"] == "\x1b[5mroot"
    table = table_of(hostile)
    for fmt in (Format.csv, Format.md):
        assert not UNSAFE.search(written(table, fmt))
    rows = list(csv.DictReader(io.StringIO(written(table, Format.csv))))
    assert [row["name"] for row in rows][:3] == [r"\x1b[31mred", r"\x1b]0;title\x07", "[bold red]loud[/bold red]"]
    assert "<script>" not in written(table, Format.md)


class _Buffers(nn.Module):
    """Every kind of buffer that PyTorch keeps beside parameters, and a tie."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.spectral = torch.nn.utils.parametrizations.spectral_norm(nn.Conv1d(6, 4, 1))
        self.old_spectral = nn.utils.spectral_norm(nn.Linear(6, 4))
        self.pruned = l1_unstructured(nn.Linear(6, 4), "weight", 0.5)  # type: ignore[no-untyped-call]
        self.weight_normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 4, 3))
        self.table, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("positions", torch.arange(9))


def test_rows_add_up_to_the_total(folder: Path) -> None:
    """The column counts what the total does: parameters and no buffers; ties once."""
    model = _Buffers()
    checkpoint = opened(folder, model.state_dict())
    table = table_of(checkpoint)
    layers = find_layers(checkpoint)
    rows = {str(raw[0]): int(str(raw[7])) for raw in table.raw}
    tied = sum(rows[layer.name] for layer in layers if layer.name == "head")
    total = totals(checkpoint, layers)["parameters"]
    assert sum(rows.values()) - tied == total == sum(p.numel() for p in model.parameters())


def test_an_optimizer_has_no_parameters(folder: Path) -> None:
    model = nn.Conv1d(6, 4, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 6, 2)).sum().backward()
    optimizer.step()
    path = folder / "both.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    state = written(table_of(open_checkpoint(path, "optimizer")), Format.table)
    assert "parameters" not in state
    assert "58 numbers of optimizer state" in state
    assert "other roots" not in written(table_of(open_checkpoint(path, ".")), Format.table)
    assert "other roots" in written(table_of(open_checkpoint(path)), Format.table)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_integers_without_a_sign_are_not_called_quantized(folder: Path, kind: str) -> None:
    shape = (4, 6, 1) if kind == "conv" else (4, 6)
    layers = {
        layer.name: layer
        for layer in find_layers(
            opened(
                folder,
                {
                    "plain.weight": torch.zeros(shape, dtype=torch.int32),
                    "mask.weight": torch.zeros(shape, dtype=torch.bool),
                    "scaled.weight": torch.zeros(shape, dtype=torch.int8),
                    "scaled.weight_scale": torch.ones(4),
                },
            )
        )
    }
    assert "integers" in layers["plain"].tags
    assert "quantized" not in layers["plain"].kind
    assert layers["mask"].kind == "Parameter"
    assert layers["scaled"].kind.endswith("(quantized)")


def test_tensors_without_numbers_of_their_own_say_so(folder: Path) -> None:
    state = {
        "sparse.weight": torch.eye(4).to_sparse(),
        "meta.weight": torch.zeros(4, 6, device="meta"),
        "expanded.weight": torch.zeros(4, 1).expand(4, 6),
    }
    tags = {layer.name: layer.tags for layer in find_layers(opened(folder, state))}
    for tag in ("sparse_coo", "meta", "expanded"):
        assert tag in tags[tag.partition("_")[0]]


def test_the_count_is_that_of_the_rows(folder: Path) -> None:
    state = {
        "conv.weight": torch.zeros(4, 6, 1),
        "attention.in_proj_weight": torch.zeros(18, 6),
        "half.weight_g": torch.zeros(4, 1),
        "q.qweight": torch.zeros(4, 6, dtype=torch.int32),
        "embed.weight": torch.zeros(9, 6),
    }
    checkpoint = opened(folder, state)
    layers = find_layers(checkpoint)
    assert totals(checkpoint, layers)["layers"] == len(select(layers)) == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_no_floating_dtype_alone_means_quantized(folder: Path, dtype: torch.dtype) -> None:
    (layer,) = find_layers(opened(folder, {"conv.weight": torch.zeros(4, 6, 1, dtype=dtype)}))
    assert (layer.kind, layer.pointwise) == ("Conv1d", True)


@pytest.mark.parametrize(("number", "last"), [(2, "B1;"), (4, "B2 and 1 more class;"), (7, "B2 and 4 more classes;")])
def test_a_script_names_its_classes_and_counts_the_rest(tmp_path: Path, number: int, last: str) -> None:
    """PyTorch's own classes in it and what TorchScript adds to names are of no interest."""
    classes = [type(f"B{at}", (nn.Sequential,), {}) for at in range(number)]
    jit: Any = torch.jit
    traced = jit.trace(nn.Sequential(*(one(nn.Conv1d(3, 3, 1)) for one in classes)), torch.zeros(1, 3, 5))
    traced.save(str(tmp_path / "a.pt"))
    notes = read_contents(tmp_path / "a.pt").notes
    assert notes[0].startswith("whole module torch.nn.modules.container.Sequential; its code was neither")
    assert len(notes) == 1 + min(number, 3)
    assert f".{last} " in notes[-1]
    assert "__torch__" not in " ".join(notes)


def test_one_source_text_is_one_file(tmp_path: Path) -> None:
    script: Any = torch.jit.script(nn.Identity())
    script.save(str(tmp_path / "a.pt"))
    assert any("TorchScript: 1 file of source text" in one for one in check(tmp_path / "a.pt").notes)
