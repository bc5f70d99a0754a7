"""The shape of the program: imports point one way, and nobody pays for what they do not use."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "convinspect"

# From the ground up; a module may import from its own layer and those below.
LAYERS = [
    {"errors", "admitted", "wording"},
    {"records", "findings"},
    {"storage", "folding", "workers", "apart"},
    {"numbers"},
    {"formats"},
    {"checkpoint", "strides"},
    {"readings"},
    {"groups"},
    {"layers", "stats"},
    {
        "bits",
        "deviation",
        "devices",
        "leaves",
        "pointwise",
        "carrying",
        "references",
        "pickled",
        "ties",
        "zip_integrity",
        "values",
        "obstacles",
        "companions",
        "load_errors",
    },
    {"kernels", "tensors", "convert", "pairs", "outputs", "counterparts", "required"},
    {"integrity"},
    {"judging", "modules", "compare", "explain", "check"},
    {"claims"},
    {"matching", "renaming", "training", "losses", "saving", "user_models"},
    {"resaving"},
    {"pairing"},
    {"surroundings"},
    {"verify", "diff", "mending"},
    {"model_runs", "strict_loading"},
    {"whole_model"},
    {"view"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# What works on live modules and on outputs; commands that need neither never load it.
LIVE = {
    "devices",
    "leaves",
    "pointwise",
    "carrying",
    "references",
    "counterparts",
    "modules",
    "outputs",
    "model_runs",
    "strict_loading",
    "whole_model",
    "compare",
    "claims",
    "explain",
}

# The numbers of a matrix that must be turned over are read while the new file is written.
ALLOWED = {("formats", "numbers")}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__main__.py",))


def part_of(path: Path) -> str:
    """The layer's name: a top-level module, or the folder it lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Dotted names that a module imports, lazily or not, but for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = ast.iter_child_nodes(tree) if top_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = part_of(path)
    if here == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "convinspect" or len(parts) < 2 or parts[1] == "__version__":
            continue
        there = parts[1]
        assert there in LEVEL, f"{there} has no place in the layers"
        assert LEVEL[there] <= LEVEL[here] or (here, there) in ALLOWED, f"{here} imports {there}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_and_foreign_packages_stay_where_they_belong(path: Path) -> None:
    every, top = imports(path), imports(path, top_only=True)
    assert not any(name.split(".")[0] == "click" for name in every)
    assert part_of(path) in LIVE or not any(name.split(".")[0] in ("torch", "safetensors") for name in top)
    if part_of(path) not in ("view", "cli"):
        assert not any(name.split(".")[0] in ("rich", "typer") for name in every)
    assert not any(name.split(".")[0] in ("pickle", "_pickle", "dill", "cloudpickle", "joblib") for name in every)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_executes_what_a_file_says(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "torch.load")
            # The user's own code is named on the command line, never by a file.
            assert called != "importlib.import_module" or path.name == "user_models.py"


def test_every_module_has_its_place() -> None:
    assert {part_of(path) for path in modules()} - {"__init__"} == set(LEVEL)


def test_modules_stay_small() -> None:
    long = {path.name: n for path in modules() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long
