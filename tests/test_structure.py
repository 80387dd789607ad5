"""What the design says about the code itself: rooms know those above them, one file opens traces, nothing hooks."""

from __future__ import annotations

import ast
import importlib
import pydoc
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "modalnet"
FILES = sorted(PACKAGE.rglob("*.py"))

#: The rooms in order; a room imports from itself and from those before it.
ROOMS = (
    ("errors", "_version", "_validation", "_deprecation", "_warnings", "_files", "_lazy"),
    ("stats",),
    ("units",),
    ("results",),
    ("stimuli",),
    ("models",),
    ("inputs",),
    ("interventions",),
    ("execution",),
    ("model",),
    ("activations",),
    ("bundled",),
    ("tasks",),
    ("protocols",),
    ("localization", "lesion", "patching", "brain", "features", "profiles", "specialization", "lenses"),
    ("replication",),
    ("plotting", "interop", "cli"),
)
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}
HOOKS = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_hook")


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


class Imports(ast.NodeVisitor):
    """What a file imports from modalnet, leaving out what only a type checker sees: (module, enclosing functions)."""

    def __init__(self) -> None:
        self.functions: list[str] = []
        self.found: list[tuple[str, tuple[str, ...]]] = []

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, tuple(self.functions)) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            self.found.append((inner if inner in MODULES else str(node.module), tuple(self.functions)))


def imports(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    visitor = Imports()
    visitor.visit(ast.parse(path.read_text()))
    return [(name, where) for name, where in visitor.found if name.split(".")[0] == "modalnet"]


def draws(name: str, where: tuple[str, ...]) -> bool:
    """Whether an import is how a result shows itself: in a method `plot` or `report`, of modalnet.plotting."""
    return where[-1:] in {("plot",), ("report",)} and room_of(name) == "plotting"


def test_every_file_is_in_a_room():
    assert len(FILES) > 20
    assert {room_of(module) for module in MODULES} - {"", *LEVEL} == set()


@pytest.mark.parametrize("module", [module for module in MODULES if module != "modalnet"])
def test_no_import_runs_back_up_the_rooms(module):
    own = LEVEL[room_of(module)]
    for name, where in imports(MODULES[module]):
        if name == "modalnet":
            # The commands are users of the public package; no room needs it.
            assert room_of(module) == "cli", f"{module} imports the package root"
            continue
        assert LEVEL[room_of(name)] <= own or draws(name, where), f"{module} imports {name}"
        if own == LEVEL["localization"]:
            other = room_of(name) != room_of(module) and LEVEL[room_of(name)] == own
            assert not other, f"{module} looks into another analysis: {name}"


def test_no_function_is_long():
    """At most 60 lines of code, the docstring not counted; the bodies of traces are written as nnsight reads them."""
    long = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if module == "modalnet.execution.trace" or not isinstance(node, ast.FunctionDef):
                continue
            code = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = code[-1].end_lineno - code[0].lineno + 1 if code else 0
            if lines > 60:
                long.append(f"{module}.{node.name}: {lines}")
    assert long == []


def test_no_two_files_import_each_other_in_a_circle():
    graph = {
        module: {name for name, where in imports(path) if not draws(name, where)} - {module}
        for module, path in MODULES.items()
    }
    # A package's __init__ that hands on names of its own files is passed through, not part of a circle.
    inits = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done or module not in graph:
            return
        for name in graph[module]:
            own_init = name in inits and module.startswith(f"{name}.")
            if not own_init:
                walk(name, (*trail, module))
        done.add(module)

    for module in graph:
        walk(module, ())
    assert done == set(graph)


def test_packages_import_at_first_use():
    for path in FILES:
        if path.with_suffix(".pyi").exists():
            assert imports(path) == [("modalnet._lazy", ())]
    assert (PACKAGE / "__init__.pyi").exists()


def test_one_file_opens_traces_and_none_hooks():
    tracing, hooking = set(), set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                if node.attr in ("trace", "session", "scan", "edit"):
                    tracing.add(path.relative_to(PACKAGE).as_posix())
                if node.attr in HOOKS or (node.attr.startswith("register_") and "hook" in node.attr):
                    hooking.add(path.relative_to(PACKAGE).as_posix())
            if isinstance(node, ast.Constant) and node.value in HOOKS:
                hooking.add(path.relative_to(PACKAGE).as_posix())
    assert tracing == {"execution/trace.py"}
    assert hooking == set()


def test_one_room_knows_the_store():
    """Every analysis goes through ``modalnet.results.cache``; the command line lists and clears the store."""
    knowing = set()
    for path in FILES:
        place = path.relative_to(PACKAGE).as_posix()
        for name, _ in imports(path):
            if name == "modalnet.results.store" and not place.startswith("results/"):
                knowing.add(place)
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Store"
            if called and not place.startswith("results/"):
                knowing.add(place)
    assert knowing == {"cli/cache.py"}


def test_no_table_of_model_names():
    """The rooms that find towers and write inputs name no model family in their code (their prose may)."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kinds = {kind for kind in CONFIG_MAPPING_NAMES if len(kind) > 4 and kind not in ("vision-encoder-decoder",)}
    for path in [
        path for room in ("models", "inputs", "interventions", "execution") for path in (PACKAGE / room).rglob("*.py")
    ]:
        tree = ast.parse(path.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                assert node.value not in kinds, f"{path.name} names {node.value}"


def test_importing_is_light():
    """`import modalnet` executes five of its own files and none of the libraries that take seconds to import."""
    code = "import sys; before = {*sys.modules}; import modalnet; print(*{*sys.modules} - before)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = run.stdout.split()
    assert {"torch", "transformers", "nnsight", "pandas", "numpy", "importlib.metadata"}.isdisjoint(loaded)
    assert len([name for name in loaded if name.partition(".")[0] == "modalnet"]) <= 5
    assert len(loaded) < 60


def test_every_promised_name_is_there():
    import modalnet

    for name in modalnet.__all__:
        assert getattr(modalnet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        modalnet.nonsense  # noqa: B018


#: Public functions that have the name of a file or folder of their package.
NAMESAKES = [
    (package, name)
    for package, path in MODULES.items()
    if path.with_suffix(".pyi").exists()
    for name in importlib.import_module(package).__all__
    if f"{package}.{name}" in MODULES and not isinstance(getattr(importlib.import_module(package), name), ModuleType)
]


#: With modalnet as if it had not been imported: what it imports of others stays.
NAMESAKE = """
for each in [each for each in sys.modules if each.partition(".")[0] == "modalnet"]:
    del sys.modules[each]
{first}
{second}
from {package} import {name} as again
if not ({name} is again is sys.modules["{package}"].{name}) or isinstance({name}, types.ModuleType):
    hidden.append("{package}.{name}, after: {first}")
"""


def test_a_file_does_not_hide_the_function_of_its_name():
    """In an interpreter of its own, as the order of imports decides what the import system sets."""
    code = ["import importlib, sys, types", "hidden = []"]
    for package, name in NAMESAKES:
        steps = f"from {package} import {name}", f"importlib.import_module('{package}.{name}')"
        code += [NAMESAKE.format(package=package, name=name, first=a, second=b) for a, b in (steps, steps[::-1])]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join([*code, "print(hidden)"])], check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]"


def test_help_shows_the_public_names():
    import modalnet

    text = pydoc.render_doc(modalnet, renderer=pydoc.plaintext)
    assert "VERSION" in text
    assert [name for name in modalnet.__all__ if name not in text and name != "__version__"] == []


def test_no_two_files_of_tests_have_one_name():
    """Where folders are no packages, pytest collects none of the tests beside two files of one name."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
