"""Tab in the real shells: completion is installed as the README says, and each line is what the program then gets."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.paths import ROOT
from support.shells import STARTED, Shell, completing, put_program

NAMES = [
    "conv.1", "conv.2", "fc:a", "my layer", "star*x", "bang!y", "quote'z", "dollar$(touch gone)", "uni.λ", "plain",
    'inch"w', "`touch gone`", "back\\slash",
]  # fmt: skip
INSTALLED = {
    "bash": {".bash_completions/convinspect.sh", ".bashrc"},
    "zsh": {".zfunc/_convinspect", ".zshrc"},
    "fish": {".config/fish/completions/convinspect.fish"},
}
"""Files in the home of a user who has installed completion."""


@pytest.fixture(scope="module", params=STARTED)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell that is started anew after completion was installed from within it; in a folder with checkpoints."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    home = tmp_path_factory.mktemp(name)
    work = home / "work"
    work.mkdir()
    put_program(home / "bin")
    state = {f"{key}.weight": torch.zeros(2, 3, 1) for key in NAMES}
    torch.save({"model": state, "ema": state}, work / "model.pt")
    torch.save(state, work / "one file.pt")
    with tarfile.open(work / "pack.tar", "w") as archive:
        archive.add(work / "model.pt", "deep/model.pt")
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE", "FISH", "XDG_"))
    }
    path = os.pathsep.join([str(home / "bin"), env["PATH"]])
    env |= {"HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), "TERM": "xterm", "LANG": "C.UTF-8"}
    first = Shell(name, work, env)
    first.type("convinspect --install-completion\n")
    where = first.wait_for(r"installed in ([^\s\x1b]+)")[1]
    first.close()
    assert str(Path(where).relative_to(home)) in INSTALLED[name]
    assert all((home / file).is_file() for file in INSTALLED[name])
    second = Shell(name, work, env)
    # The program itself completes once, started by the shell; then forks of one that has imported everything do.
    assert second.given("convinspect shap\t") == ["shapes"]
    with completing(home / "socket"):
        put_program(home / "bin", home / "socket")
        yield second
    second.close()
    assert not (work / "gone").exists(), "a name was run"


IN_ALL = {
    "shap\t": ["shapes"],
    "mod\t": ["model.pt"],
    "shapes --poi\t": ["shapes", "--pointwise"],
    "shapes model.pt --root e\t": ["shapes", "model.pt", "--root", "ema"],
    "model.pt --layer pl\t": ["model.pt", "--layer", "plain"],
    "weights 'one file.pt' fc\t": ["weights", "one file.pt", "fc:a"],
    "weights model.pt my\\ la\t": ["weights", "model.pt", "my layer"],
    "weights model.pt sta\t": ["weights", "model.pt", "star*x"],
    "weights model.pt ban\t": ["weights", "model.pt", "bang!y"],
    "shapes 'pack.tar!de\t": ["shapes", "pack.tar!deep/model.pt"],
    "shapes model.pt --layer=pl\t": ["shapes", "model.pt", "--layer=plain"],
    "weights model.pt quo\t": ["weights", "model.pt", "quote'z"],
}
"""What is typed behind `convinspect `, and what the program gets."""
IN_BASH_AND_ZSH = {
    "shapes one\t --fold": ["shapes", "one file.pt", "--fold"],
    "shapes model.pt --format j\t": ["shapes", "model.pt", "--format", "json"],
    "shapes model.pt --kind Con\t": ["shapes", "model.pt", "--kind", "Conv1d"],
    "weights model.pt con\t1": ["weights", "model.pt", "conv.1"],
    "weights model.pt fc:\t": ["weights", "model.pt", "fc:a"],
    "weights model.pt 'my l\t": ["weights", "model.pt", "my layer"],
    "weights model.pt uni\t": ["weights", "model.pt", "uni.λ"],
    "weights model.pt nothing\t": ["weights", "model.pt", "nothing"],
}
IN_ZSH = {
    "shapes model.pt --layer=fc:\t": ["shapes", "model.pt", "--layer=fc:a"],
    "shapes model.pt --layer=my\\ l\t": ["shapes", "model.pt", "--layer=my layer"],
    "shapes model.pt --layer=quo\t": ["shapes", "model.pt", "--layer=quote'z"],
    "weights model.pt inc\t": ["weights", "model.pt", 'inch"w'],
    "weights model.pt dol\t": ["weights", "model.pt", "dollar$(touch gone)"],
    "weights model.pt bac\t": ["weights", "model.pt", "back\\slash"],
}
"""Names that would be something else in a piece of script, and words that begin with an option."""
IN_BASH = {
    "help conv\t": ["help", "convert"],
    "explain --as li\t": ["explain", "--as", "linear"],
    "shapes mod\t": ["shapes", "model.pt"],
    "model.pt --root e\t": ["model.pt", "--root", "ema"],
    "shapes model.pt --layer=my\\ l\t": ["shapes", "model.pt", "--layer=my layer"],
    'weights model.pt "sta\t': ["weights", "model.pt", "star*x"],
    "shapes pack.tar!\t": ["shapes", "pack.tar!deep/model.pt"],
    "weights pack.tar\\!deep/model.pt pl\t": ["weights", "pack.tar!deep/model.pt", "plain"],
    "shapes --layer pl model.pt" + "\x1b[D" * 9 + "\t": ["shapes", "--layer", "plain", "model.pt"],
}
"""Cases of that shell alone, or that differ in nothing that the shell does; bash is the fastest."""
TRIED = {
    "bash": {**IN_ALL, **IN_BASH_AND_ZSH, **IN_BASH},
    "zsh": {**IN_ALL, **IN_BASH_AND_ZSH, **IN_ZSH},
    "fish": IN_ALL,
}


def test_tab_completes(shell: Shell) -> None:
    given = {keys: shell.given(f"convinspect {keys}") for keys in TRIED[shell.name]}
    assert given == TRIED[shell.name]


def test_a_name_that_a_shell_would_run_is_quoted_or_not_offered(shell: Shell) -> None:
    for typed, name in (("quo", "quote'z"), ("dol", "dollar$(touch gone)")):
        assert shell.given(f"convinspect weights model.pt {typed}\t")[-1] in (name, typed)


def test_several_that_begin_so_are_listed(shell: Shell) -> None:
    shell.type("convinspect weights model.pt conv.\t" + "\t" * (shell.name == "bash"))
    # Some colour what is typed already.
    shell.wait_for(r"conv\.\S*1.*conv\.\S*2")
    assert shell.given("1") == ["weights", "model.pt", "conv.1"]
