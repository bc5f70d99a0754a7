"""The user's own models, whatever they do when made, loaded and run: no false alarm, and no exit code 0 by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from support.verifying import command

CODE = """
import random, sys
import numpy as np
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(8, 8, 1), nn.Conv1d(8, 4, 1)
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

class Cache(Base):
    def __init__(self):
        super().__init__()
        self.cos = None
    def forward(self, x):
        if self.cos is None:
            self.cos = torch.cos(torch.arange(x.shape[-1], dtype=x.dtype))
        return super().forward(x * self.cos)

class Count(Base):
    def __init__(self):
        super().__init__()
        self.n = 0
    def forward(self, x):
        self.n += 1
        return super().forward(x) * self.n

class BufferCount(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()), persistent=False)
        self.register_buffer("noise", torch.randn(8, 1), persistent=False)
    def forward(self, x):
        self.n += 1
        return super().forward(x + self.noise) * self.n

class Cannot(Count):
    def __deepcopy__(self, memo):
        raise TypeError("no copies")

class Writes(Base):
    def forward(self, x):
        x.mul_(2)
        return super().forward(x)

class Random(Base):
    def forward(self, x):
        return super().forward(x) + random.random() + np.random.rand() + torch.randn(1, dtype=x.dtype)

class Complex(Base):
    def forward(self, x):
        return torch.fft.fft(super().forward(x))

class Coarse(Base):
    def forward(self, x):
        return torch.fft.fft(super().forward(x).float())

class Wrong(Base):
    def forward(self, x):
        return torch.fft.fft(super().forward(x)) + 1e-7j

class Frozen(Base):
    def __init__(self):
        super().__init__()
        self.a.weight.requires_grad_(False)

class AllFrozen(Base):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

class Extra(Base):
    def get_extra_state(self):
        return {"v": (1, [2.5, None])}
    def set_extra_state(self, value):
        assert value == {"v": (1, [2.5, None])}, value

class Odd(Base):
    def get_extra_state(self):
        return {"v": torch.device("cpu")}
    def set_extra_state(self, value):
        pass

class Tied(Base):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(8, 8), nn.Linear(8, 8, bias=False)
        self.head.weight = self.words.weight
    def forward(self, x):
        return super().forward(self.head(x.mT).mT)

class Leaves(Base):
    def forward(self, x):
        sys.exit(0)

def leave():
    raise SystemExit

class Prints(Base):
    def __init__(self):
        super().__init__()
        print("made")
    def forward(self, x):
        print("run")
        return super().forward(x)

class Default(Base):
    def forward(self, x):
        torch.set_default_dtype(torch.float64)
        return super().forward(x)

class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
    def forward(self, x):
        return self.second(torch.relu(self.first(x.mT))).mT
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "odd_code.py").write_text(CODE)
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    return tmp_path


def save(folder: Path, name: str) -> dict[str, Any]:
    """`a.pt` with the model's state, `b.pt` with it converted."""
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.manual_seed(0)
    state = namespace[name]().state_dict()
    torch.save(state, folder / "a.pt")
    after = linear(state)
    torch.save(after, folder / "b.pt")
    return dict(state)


def linear(state: dict[str, Any]) -> dict[str, Any]:
    return {key: one.squeeze(-1) if getattr(one, "ndim", 0) == 3 else one for key, one in state.items()}


def run(name: str, *words: str) -> list[str]:
    return ["a.pt", "b.pt", "--model", f"odd_code:{name}", "-i", "2x8x5", *words]


KINDS = [
    "Cache",
    "Count",
    "BufferCount",
    "Cannot",
    "Writes",
    "Random",
    "Complex",
    "Coarse",
    "Frozen",
    "Extra",
    "Default",
    "Prints",
]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("words", [(), ("--grad",)])
def test_models_of_every_kind_raise_no_alarm(folder: Path, name: str, words: tuple[str, ...]) -> None:
    save(folder, name)
    code, found = command(folder, *run(name, *words))
    assert (code, found["strength"]) == (0, "model"), found


def test_complex_outputs_are_held_to_a_limit(folder: Path) -> None:
    save(folder, "Complex")
    code, found = command(folder, *run("Complex", "--model-after", "odd_code:Wrong")[:-2], "-i", "2x8x5")
    assert code == 2 or found["ok"] is False  # the code after is not that of a Linear
    code, found = command(folder, "a.pt", "a.pt", *run("Complex", "--model-after", "odd_code:Wrong")[2:])
    assert code == 1
    assert "rounding explains" in found["cause"]


def test_no_gradient_is_said(folder: Path) -> None:
    save(folder, "AllFrozen")
    code, found = command(folder, *run("AllFrozen", "--grad"))
    assert code == 0
    assert any("no gradient was compared" in note for note in found["model"]["notes"])
    _, found = command(folder, *run("Frozen", "--grad"))
    assert not any("no gradient was compared" in note for note in found["model"]["notes"])
    assert "gradient of a.weight" not in {one["name"] for one in found["model"]["outputs"]}
    assert "gradient of b.weight" in {one["name"] for one in found["model"]["outputs"]}


@pytest.mark.parametrize("spec", ["odd_code:Leaves", "odd_code:leave", "leaving:Net"])
def test_code_that_ends_the_program_is_an_error(folder: Path, spec: str) -> None:
    save(folder, "Base")
    for words in (["a.pt", "b.pt"], ["a.pt"]):
        code, said = command(folder, *words, "--model", spec, "-i", "2x8x5")
        assert code == 2
        assert "SystemExit" in said


def test_extra_state_that_is_no_plain_value_is_said(folder: Path) -> None:
    save(folder, "Odd")
    code, said = command(folder, *run("Odd"))
    assert code == 2
    assert "_extra_state is not read where it is more than plain values" in said


def test_safetensors_keep_one_name_of_a_tie(folder: Path) -> None:
    state = save(folder, "Tied")
    del state["head.weight"]
    save_file(state, folder / "a.safetensors")
    code, found = command(folder, "a.safetensors", *run("Tied")[2:])
    assert code == 0, found
    assert "head.weight is not in a.safetensors: the model ties it to words.weight" in found["model"]["notes"]
    torch.save(state, folder / "a.pt")
    assert command(folder, "a.pt", *run("Tied")[2:])[0] == 2


def test_all_converted_layers_are_swapped_whichever_are_asked_for(folder: Path) -> None:
    save(folder, "Base")
    code, found = command(folder, *run("Base", "--layer", "b"))
    assert (code, found["strength"]) == (0, "model"), found
    assert [one["name"] for one in found["layers"]] == ["b"]


def test_renamed_files_are_loaded_under_their_own_names(folder: Path) -> None:
    state = save(folder, "Base")
    names = {"a": "first", "b": "second"}
    after = {names[key[0]] + key[1:]: one for key, one in linear(state).items()}
    torch.save(after, folder / "b.pt")
    renames = ["--rename", "a=first", "--rename", "b=second"]
    code, found = command(folder, *run("Base", *renames, "--model-after", "odd_code:Other"))
    assert (code, found["strength"]) == (0, "model"), found
    code, said = command(folder, *run("Base", *renames))
    assert code == 2
    assert "give --model-after" in said
    wrong = {key: one + 0.25 * (key == "second.bias") for key, one in after.items()}
    torch.save(wrong, folder / "b.pt")
    assert command(folder, *run("Base", *renames, "--model-after", "odd_code:Other"))[0] == 1
    # A file whose names do not fit the code until they are renamed.
    torch.save({f"net.{key}": one for key, one in state.items()}, folder / "a.pt")
    torch.save(linear(state), folder / "b.pt")
    code, found = command(folder, *run("Base", "--rename", "net.*=*"))
    assert (code, found["strength"]) == (0, "model"), found


def test_models_with_complex_weights_are_run(folder: Path) -> None:
    (folder / "complex_code.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.conv = nn.Conv1d(4, 4, 1, dtype=torch.complex64)\n"
        "    def forward(self, x): return self.conv(x.to(torch.complex64))\n"
    )
    torch.save(nn.Conv1d(4, 4, 1, dtype=torch.complex64).state_dict(prefix="conv."), folder / "a.pt")
    code, found = command(folder, "a.pt", "a.pt", "--model", "complex_code:Net", "-i", "2x4x3")
    assert (code, found["strength"]) == (0, "model"), found
