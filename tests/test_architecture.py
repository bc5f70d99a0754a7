"""The shape of the program: imports point one way, and nobody pays for what they do not use."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "convinspect"

# From the ground up: a package or root module may import from its own line and from those above it here.
ORDER = [
    {"errors", "text", "kinds", "dtypes", "layouts", "doubts", "containers"},
    {"records", "keys", "render", "ranks"},
    {"remote"},
    {"page"},
    {"formats", "modules"},
    {"pointwise", "arrays"},
    {"checkpoint", "checking"},
    {"layers", "writing"},
    {"converting"},
    {"verifying", "diffing", "comparing", "explaining", "reporting"},
    {"showing"},
    {"browsing"},
    {"api"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}

# What works on live modules and on outputs; commands that need neither never load it.
LIVE = {
    "arrays.devices",
    "arrays.error_bound",
    "arrays.forms",
    "arrays.stacked",
    "comparing.claims",
    "comparing.compare",
    "comparing.measure",
    "comparing.subjects",
    "comparing.ways",
    "explaining.data",
    "explaining.example",
    "explaining.explain",
    "explaining.patches",
    "modules",
    "modules.choosing",
    "modules.counterpart",
    "modules.patch_counterpart",
    "modules.patches",
    "modules.pointwise",
    "modules.references",
    "modules.single",
    "modules.state",
    "modules.swap",
    "verifying.inputs",
    "verifying.loading",
    "verifying.model",
    "verifying.model_runs",
    "verifying.pytree",
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__main__.py",))


def part_of(path: Path) -> str:
    """A module at the package's root, or the package that a module lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    """The module's name below `convinspect`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


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
        assert LEVEL[there] <= LEVEL[here], f"{here} imports {there}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_and_foreign_packages_stay_where_they_belong(path: Path) -> None:
    every, top = imports(path), imports(path, top_only=True)
    assert not any(name.split(".")[0] == "click" for name in every)
    assert dotted(path) in LIVE or not any(name.split(".")[0] in ("torch", "safetensors") for name in top)
    if part_of(path) not in ("render", "showing", "browsing", "cli"):
        assert not any(name.split(".")[0] in ("rich", "typer") for name in every)
    assert not any(name.split(".")[0] in ("pickle", "_pickle", "dill", "cloudpickle", "joblib") for name in every)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_executes_what_a_file_says(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "torch.load")
            # The user's own code is named on the command line, never by a file.
            assert called != "importlib.import_module" or dotted(path) == "modules.user_code"


TESTS = Path(__file__).resolve().parent
# Beside a folder for each package: what builds inputs, random inputs, random models, and the whole program on files of
# every origin.
OTHER_FOLDERS = {"error_texts", "support", "fuzz", "end_to_end", "oracle"}


def test_folders_of_tests_are_those_of_packages() -> None:
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("*.py") if path.parent != TESTS}
    assert folders - OTHER_FOLDERS <= {part_of(path) for path in modules()}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_module_imports_another(path: Path) -> None:
    """What two of them use lies in `support`; what two of its modules use is no test."""
    assert not any(part.startswith("test_") for name in imports(path) for part in name.split(".")[:-1] or [name])


def test_every_module_has_its_place() -> None:
    assert {part_of(path) for path in modules()} - {"__init__"} == set(LEVEL)


def test_few_modules_lie_at_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_no_module_imports_itself_by_way_of_others() -> None:
    """No circle of imports, lazy ones included."""
    names = {dotted(path) for path in modules()}
    arrows: dict[str, set[str]] = {}
    for path in modules():
        arrows[dotted(path)] = set()
        for imported in imports(path):
            parts = imported.split(".")[1:] if imported.startswith("convinspect.") else []
            # A name may be a module's, or of something in it.
            target = next((name for n in (len(parts), len(parts) - 1) if (name := ".".join(parts[:n])) in names), None)
            if target is not None and target != dotted(path):
                arrows[dotted(path)].add(target)
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join((*way[way.index(name) :], name))
        if name not in done:
            for target in sorted(arrows[name]):
                follow(target, (*way, name))
            done.add(name)

    for name in sorted(names):
        follow(name, ())


def test_modules_stay_small() -> None:
    long = {path.name: n for path in modules() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


# Where the time of a listing goes: one plain loop, whose state is in local variables.
LONG = {"Machine.run"}


def test_functions_stay_small() -> None:
    """At most 60 lines, without the docstring."""
    long = {}
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owners = {
            id(item): node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body
        }
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                first = node.body[0]
                if ast.get_docstring(node) is not None and first.end_lineno is not None:
                    lines -= first.end_lineno - first.lineno + 1
                name = f"{owners[id(node)]}.{node.name}" if id(node) in owners else node.name
                if lines > 60 and name not in LONG:
                    long[f"{dotted(path)}.{name}"] = lines
    assert not long
