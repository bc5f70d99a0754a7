"""The shape of the program: imports point one way, and nobody pays for what they do not use."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

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


class Facts(NamedTuple):
    """What a module's text says.

    Attributes:
        every: Dotted names that it imports, lazily or not, but for type checking.
        top: Those that it imports as it is imported.
        calls: What it calls, as it is written.
        functions: Lines of each function without its docstring, by its name and its class's.
    """

    every: frozenset[str]
    top: frozenset[str]
    calls: frozenset[str]
    functions: dict[str, int]


@cache
def facts(path: Path) -> Facts:
    """A module's facts; parsing all of them takes seconds, so each is parsed once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_top = set(map(id, tree.body))
    every, top, calls, functions = set(), set(), set(), {}
    # With the class that a node stands in, if it is the class's own.
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, owner = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = _imported(node)
            every |= names
            top |= names if id(node) in at_top else set()
        elif isinstance(node, ast.Call):
            calls.add(_written(node.func))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            functions[owner + node.name] = _length(node)
        inner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        waiting += [(child, inner) for child in ast.iter_child_nodes(node)]
    return Facts(frozenset(every), frozenset(top), frozenset(calls), functions)


def _written(function: ast.expr) -> str:
    """A name with its dots; "" for what is called and is none. `ast.unparse` takes ten times as long."""
    if isinstance(function, ast.Attribute):
        return f"{_written(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {f"{node.module}.{alias.name}" for alias in node.names} if node.module else set()


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_facts_are_those_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\nclass F:\n    def g(self):\n"
        '        """Text.\n\n        More.\n        """\n        from h import i\n        i.j(eval(k))\n'
    )
    assert facts(path) == Facts(
        frozenset({"a.b", "c.d", "h.i"}), frozenset({"a.b", "c.d"}), frozenset({"i.j", "eval"}), {"F.g": 3}
    )


def test_imports_point_one_way() -> None:
    wrong = []
    for path in modules():
        here = part_of(path)
        for name in facts(path).every if here != "__init__" else ():
            parts = name.split(".")
            if parts[0] != "convinspect" or len(parts) < 2 or parts[1] == "__version__":
                continue
            assert parts[1] in LEVEL, f"{parts[1]} has no place in the layers"
            if LEVEL[parts[1]] > LEVEL[here]:
                wrong.append(f"{dotted(path)} imports {name}")
    assert not wrong


def test_heavy_and_foreign_packages_stay_where_they_belong() -> None:
    wrong = []
    for path in modules():
        every, top = ({name.split(".")[0] for name in names} for names in (facts(path).every, facts(path).top))
        elsewhere = {"click", "pickle", "_pickle", "dill", "cloudpickle", "joblib"}
        if part_of(path) not in ("render", "showing", "browsing", "cli"):
            elsewhere |= {"rich", "typer"}
        found = (every & elsewhere) | (set() if dotted(path) in LIVE else top & {"torch", "safetensors"})
        wrong += [f"{dotted(path)} imports {name}" for name in found]
    assert not wrong


def test_nothing_executes_what_a_file_says() -> None:
    for path in modules():
        assert not facts(path).calls & {"eval", "exec", "compile", "__import__", "torch.load"}, path
        # The user's own code is named on the command line, never by a file.
        assert "importlib.import_module" not in facts(path).calls or dotted(path) == "modules.user_code"


TESTS = Path(__file__).resolve().parent
# Beside a folder for each package: what builds inputs, random inputs, random models, and the whole program on files of
# every origin.
OTHER_FOLDERS = {"error_texts", "support", "fuzz", "end_to_end", "oracle"}


def test_folders_of_tests_are_those_of_packages() -> None:
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("*.py") if path.parent != TESTS}
    assert folders - OTHER_FOLDERS <= {part_of(path) for path in modules()}


def test_no_test_module_imports_another() -> None:
    """What two of them use lies in `support`; what two of its modules use is no test."""
    # Parsing all of them takes seconds, and nearly none has such a line.
    may = [path for path in TESTS.rglob("*.py") if re.search(r"(from|import)\b.*\btest_", path.read_text("utf-8"))]
    for path in may:
        names = facts(path).every
        assert not any(part.startswith("test_") for name in names for part in name.split(".")[:-1] or [name]), path


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
        for imported in facts(path).every:
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
    sizes = {(dotted(path), name): lines for path in modules() for name, lines in facts(path).functions.items()}
    assert not {where: lines for where, lines in sizes.items() if lines > 60 and where[1] not in LONG}
