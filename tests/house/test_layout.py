"""The rules of the house that no linter knows: what may import what, how long things get, what is never written.

Each rule is a function from a tree of files to its violations, so that it is shown to fail on a tree that breaks it.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = "earlybird"

# cli -> paper, report -> forecast -> grids -> runs -> methods -> training -> (models data cost energy)
# -> slimming -> core; settings lie below all but core, whose stop rules they name.
BELOW: dict[str, set[str]] = {"core": set(), "settings": {"core"}, "slimming": {"core", "settings"}}
MIDDLE = {"models", "data", "cost", "energy"}
BELOW |= {name: {"slimming", "core", "settings"} for name in MIDDLE}
BELOW["cost"] |= {"energy"}  # its meters read the counters; energy takes and gives plain numbers
BELOW["energy"] = set()
BELOW["training"] = MIDDLE | {"slimming", "core", "settings"}
for above, below in [("methods", "training"), ("runs", "methods"), ("grids", "runs"), ("forecast", "grids")]:
    BELOW[above] = BELOW[below] | {below}
BELOW["report"] = BELOW["forecast"] | {"forecast"}
BELOW["paper"] = BELOW["report"] | {"report"}
BELOW["integrations"] = BELOW["testing"] = BELOW["paper"] | {"paper"}
BELOW["cli"] = BELOW["integrations"] | {"integrations"}

LOWEST = (f"{PACKAGE}.errors", f"{PACKAGE}.atomic", f"{PACKAGE}.schemas")
CORE_MAY_IMPORT = set(sys.stdlib_module_names) | {"torch", "numpy", "safetensors"}
BANNED_NAMES = {"utils", "util", "common", "base", "helpers", "helper", "misc"}
MOST_FILE_LINES, MOST_FUNCTION_LINES = 400, 50
# Written in pieces, so that this file does not hold what it forbids.
DEVELOPMENT_PATH = re.compile(r"(?<![\w.~-])/(?:" + "home|root|work" + r")/\w|(?<![\w.])/tmp" + r"/w(?!\w)")
NOT_OURS = {"build", "dist", "runs", "venv", "node_modules", "__pycache__"}


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def module_name(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(tree: ast.AST, *, with_types: bool) -> Iterator[ast.AST]:
    """All nodes; without types, those under `if TYPE_CHECKING:` are left out, for they never run."""
    for node in ast.iter_child_nodes(tree):
        if with_types or not is_type_checking(node):
            yield node
            yield from statements(node, with_types=with_types)


def imports(path: Path, source: Path, *, with_types: bool = True) -> set[str]:
    """Absolute dotted names that a file imports anywhere, in functions too; `from a import b` gives `a` and `a.b`."""
    package = module_name(path, source).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    found = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), with_types=with_types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return found


def layer_of(name: str) -> str | None:
    """`core` for `earlybird.core.mask`; None for what is not a package of ours, such as `earlybird.errors`."""
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 and parts[1] in BELOW else None


def wrong_imports(source: Path) -> list[str]:
    """Imports against the direction, and packages that have no place in it."""
    wrong = []
    for path in python_files(source / PACKAGE):
        layer = layer_of(module_name(path, source))
        if layer is None:
            if len(path.relative_to(source / PACKAGE).parts) > 1:
                wrong.append(f"{path}: this package has no place in the import direction")
            continue  # the top-level modules: the package's front door, and errors
        # The contract of a method names, for type checkers, what stands above the settings.
        for name in sorted(imports(path, source, with_types=layer != "settings")):
            other = layer_of(name)
            if other not in (None, layer) and other not in BELOW[layer]:
                wrong.append(f"{path}: {layer} imports {name}")
    return wrong


def foreign_imports_of_core(source: Path) -> list[str]:
    """Imports of core beyond torch, numpy, safetensors, the standard library, itself, errors and atomic."""
    wrong = []
    for path in python_files(source / PACKAGE / "core"):
        for name in sorted(imports(path, source)):
            own = name == PACKAGE or layer_of(name) == "core" or name.startswith(LOWEST)
            if not own and name.split(".")[0] not in CORE_MAY_IMPORT:
                wrong.append(f"{path}: core imports {name}")
    return wrong


def ways_to_torch(source: Path) -> list[str]:
    """Chains of imports by which a module of report or settings loads torch; the `__init__` of each package counts."""
    files = {module_name(path, source): path for path in python_files(source / PACKAGE)}
    chains = {name: name for name in files if layer_of(name) in ("report", "settings")}
    queue, found = list(chains), []
    while queue:
        module = queue.pop()
        for name in sorted(imports(files[module], source, with_types=False)):
            if name.split(".")[0] in ("torch", "torchvision"):
                found.append(f"{chains[module]} -> {name}")
            parents = [".".join(name.split(".")[:length]) for length in range(1, name.count(".") + 2)]
            for parent in parents:
                if parent in files and parent not in chains:
                    chains[parent] = f"{chains[module]} -> {parent}"
                    queue.append(parent)
    return found


def import_circles(source: Path) -> list[str]:
    """A circle of modules that import each other, in functions too; empty where there is none."""
    files = {module_name(path, source): path for path in python_files(source / PACKAGE)}
    graph = {name: imports(path, source, with_types=False) & {*files} - {name} for name, path in files.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def oversized(*folders: Path) -> list[str]:
    """Files and functions longer than the house allows."""
    wrong = []
    for path in python_files(*folders):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > MOST_FILE_LINES:
            wrong.append(f"{path}: {lines} lines, at most {MOST_FILE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MOST_FUNCTION_LINES:
                    wrong.append(f"{path}: {node.name} has {length} lines, at most {MOST_FUNCTION_LINES}")
    return wrong


def homeless_names(source: Path) -> list[str]:
    """Modules and packages whose name says nothing."""
    paths = python_files(source / PACKAGE)
    return [str(path) for path in paths if BANNED_NAMES & {*path.relative_to(source).with_suffix("").parts}]


def development_paths(repository: Path) -> list[str]:
    """Lines with an absolute path of somebody's machine, in every text file of the repository."""
    wrong = []
    for path in sorted(repository.rglob("*")):
        parts = path.relative_to(repository).parts
        hidden = any(part.startswith(".") and part not in (".ci", ".gitignore") for part in parts)
        if hidden or NOT_OURS & {*parts} or not path.is_file() or b"\0" in (content := path.read_bytes()):
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if found := DEVELOPMENT_PATH.search(line):
                wrong.append(f"{path}:{number}: {found.group()}")
    return wrong


def test_imports_go_one_way():
    assert wrong_imports(REPOSITORY / "src") == []


def test_core_stands_on_torch_alone():
    assert foreign_imports_of_core(REPOSITORY / "src") == []


def test_report_and_settings_never_load_torch():
    assert ways_to_torch(REPOSITORY / "src") == []


def test_no_modules_import_each_other_in_a_circle(tree):
    assert import_circles(REPOSITORY / "src") == []
    tree("core/mask.py", "def f():\n    from earlybird.core import ticket")
    circle = import_circles(tree("core/ticket.py", "import earlybird.core.mask"))
    assert (
        circle == ["earlybird.core.mask -> earlybird.core.ticket -> earlybird.core.mask"] or "core.ticket" in circle[0]
    )


def test_files_and_functions_are_short():
    assert oversized(REPOSITORY / "src", REPOSITORY / "tests") == []


def test_every_module_is_named_for_its_noun():
    assert homeless_names(REPOSITORY / "src") == []


def test_every_dependency_is_imported():
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=]", dependency)[0] for dependency in declared}
    used = {
        name.split(".")[0] for path in python_files(REPOSITORY / "src") for name in imports(path, REPOSITORY / "src")
    }
    assert names - used == {"pyyaml"}  # which is imported as `yaml`
    assert "yaml" in used


def test_no_file_names_a_path_of_a_development_machine():
    assert development_paths(REPOSITORY) == []


def test_the_rules_see_the_real_tree():
    files = python_files(REPOSITORY / "src" / PACKAGE)
    layers = {layer_of(module_name(path, REPOSITORY / "src")) for path in files}
    assert {"core", "report"} <= layers
    assert "torch" in imports(REPOSITORY / "src" / PACKAGE / "core" / "mask.py", REPOSITORY / "src")


@pytest.fixture
def tree(tmp_path):
    """Writes a file of a synthetic source tree; returns the tree's root."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("core/mask.py", "from earlybird.slimming import slim", "core imports earlybird.slimming"),
        ("core/mask.py", "def f():\n    import earlybird.cli.main", "core imports earlybird.cli.main"),
        ("core/mask.py", "from ..training.loop import fit", "core imports earlybird.training.loop"),
        ("core/mask.py", "from earlybird import runs", "core imports earlybird.runs"),
        ("models/__init__.py", "from ..data import load_data", "models imports earlybird.data"),
        ("cost/network.py", "import earlybird.models.cifar", "cost imports earlybird.models.cifar"),
        ("energy/estimate.py", "from earlybird.cost import Work", "energy imports earlybird.cost"),
        ("report/plots.py", "from earlybird.paper import claims", "report imports earlybird.paper"),
        ("runs/record.py", "from earlybird.report import plot_run", "runs imports earlybird.report"),
        ("extras/thing.py", "", "no place in the import direction"),
    ],
)
def test_an_import_against_the_direction_is_found(tree, name, text, told):
    assert any(told in line for line in wrong_imports(tree(name, text)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core/ticket.py", "from earlybird.core.mask import ChannelMask\nfrom .groups import ChannelGroups"),
        ("core/mask.py", "from earlybird.errors import MaskError"),
        ("cost/meter.py", "from earlybird.energy import EnergyCounter"),
        ("cli/main.py", "from earlybird.report import plot_run\nfrom earlybird.paper import claims"),
        ("training/loop.py", "from earlybird.data import load_data\nfrom earlybird.core import EarlyBird"),
    ],
)
def test_an_import_along_the_direction_passes(tree, name, text):
    assert wrong_imports(tree(name, text)) == []


def test_a_foreign_import_of_core_is_found(tree):
    tree("core/mask.py", "import math\nimport torch\nfrom safetensors.torch import save\nimport rich.table")
    source = tree(
        "core/ticket.py", "from earlybird.errors import TicketError\nfrom earlybird.core.mask import ChannelMask"
    )
    assert [line.split(": ")[1] for line in foreign_imports_of_core(source)] == ["core imports rich.table"]


def test_torch_is_found_at_the_end_of_a_chain(tree):
    tree("report/plots.py", "from earlybird.runs.record import read")
    tree("runs/__init__.py", "from earlybird.core import mask")
    tree("runs/record.py", "")
    tree("core/__init__.py", "")
    source = tree("core/mask.py", "def f():\n    from torch import nn")
    assert "earlybird.report.plots -> earlybird.runs -> earlybird.core.mask -> torch" in ways_to_torch(source)


def test_torch_for_type_checkers_alone_is_not_loaded(tree):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"
    assert ways_to_torch(tree("report/plots.py", text)) == []
    assert ways_to_torch(tree("report/plots.py", "import torch")) != []


def test_a_long_file_and_a_long_function_are_found(tree):
    long_function = "def f():\n" + "    pass\n" * MOST_FUNCTION_LINES
    source = tree("core/mask.py", long_function)
    assert [line.split(": ")[1] for line in oversized(source)] == ["f has 51 lines, at most 50"]
    assert oversized(tree("core/mask.py", long_function.replace("    pass\n", "", 1))) == []
    assert any("401 lines" in line for line in oversized(tree("core/mask.py", "x = 1\n" * 401)))


@pytest.mark.parametrize("name", ["utils/mask.py", "core/helpers.py", "core/base.py", "common.py"])
def test_a_name_that_says_nothing_is_found(tree, name):
    assert len(homeless_names(tree(name, ""))) == 1


@pytest.mark.parametrize("parts", [("", "home", "me"), ("", "root", "x"), ("", "tmp", "w", "x"), ("", "work", "main")])
def test_a_path_of_a_development_machine_is_found(tree, parts):
    source = tree("core/notes.md", f"see '{'/'.join(parts)}'")
    assert len(development_paths(source)) == 1


@pytest.mark.parametrize(
    "text", ["https://example.org/home/page", "tests/work/x", "/tmp/work", "../work/shared", "~/root/"]
)
def test_other_paths_pass(tree, text):
    assert development_paths(tree("core/notes.md", text)) == []
