"""The rules that keep the rooms apart, read from the imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import imgsubset

ROOT = Path(inspect.getfile(imgsubset)).parent
# Each may import those before it.
GROUND = (
    *(
        "checks",
        "errors",
        "progress",
        "files",
        "weights",
        "inputs",
        "options",
        "cores",
        "devices",
        "watch",
        "ranks",
    ),
)
ROOMS = ("reading", "statistics", "features", "search", "results", "writing", "tasks", "cli")
MATHEMATICS = ("statistics", "search")
FILES = {
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fileinput", "mmap", "pickle", "subprocess", "PIL"),
    *("torchvision", "click", "tqdm", "sys", "logging", "json", "urllib", "socket", "warnings"),
}
DISK = {"reading", "writing", "features", "files", "cli"}  # who may touch it; of features only the cache does
CODE = sorted(path for path in ROOT.rglob("*.py") if path not in (ROOT / "__init__.py", ROOT / "__main__.py"))


def room(path: Path) -> str:
    """The room, or the module of the ground, that a file of the package is."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def allowed(name: str) -> set[str]:
    """What a room's `__init__` says that it may import."""
    if name in GROUND:
        return set(GROUND[: GROUND.index(name)])
    (rule,) = re.findall(
        r"May import: ([^.]*?)(?: \([^)]*\))?\.", inspect.getdoc(importlib.import_module(f"imgsubset.{name}"))
    )
    words = set(re.findall(r"[a-z]+", rule))
    everything = {*GROUND, *ROOMS} - {"cli"} if "everything" in words else set()
    return everything | (words & set(ROOMS) - {"cli"}) | set(GROUND)


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, inside functions and for type checkers too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_imports(path: Path) -> set[str]:
    """The rooms, and modules of the ground, that a file imports."""
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("imgsubset.")}
    assert inner <= {*GROUND, *ROOMS, "__version__"}, f"{path}: {inner} is in no room"
    return inner - {"__version__"}


def calls(path: Path) -> set[str]:
    """Names of functions that a file calls."""
    nodes = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {ast.unparse(function) for function in nodes}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_is_in_a_room_or_on_the_ground() -> None:
    assert {room(path) for path in CODE} == {*GROUND, *ROOMS}


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_a_module_imports_what_its_room_may(path: Path) -> None:
    assert own_imports(path) - {room(path)} <= allowed(room(path))


@pytest.mark.parametrize("name", ROOMS)
def test_no_arrow_leads_back_up(name: str) -> None:
    above = set(ROOMS[ROOMS.index(name) + 1 :])
    assert not (allowed(name) - {name}) & above


@pytest.mark.slow
def test_no_imports_go_in_a_circle() -> None:
    arrows: dict[str, set[str]] = {}
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in CODE}
    for module, path in modules.items():
        names = {name.removeprefix("imgsubset.") for name in imports(path) if name.startswith("imgsubset.")}
        arrows[module] = {other for other in modules for name in names if f"{name}.".startswith(f"{other}.")} - {module}
    done: list[str] = []

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for other in sorted(arrows[module]):
                visit(other, (*way, module))
            done.append(module)

    for module in modules:
        visit(module, ())


@pytest.mark.slow
def test_the_package_and_its_help_import_no_torch() -> None:
    code = (
        "import sys, imgsubset, imgsubset.cli\n"
        "assert not {'torch', 'scipy', 'torchvision'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, imgsubset\nassert not {'torch', 'numpy', 'tqdm', 'click'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # so that it takes an eighth of a second


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_modules_and_functions_are_of_a_size_to_be_read(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in CODE if room(path) != "cli"], ids=name_of)
def test_only_the_command_line_knows_click_and_prints(path: Path) -> None:
    bars = {"tqdm"} if name_of(path) == "progress.py" else set()  # for who asks for them in Python, imported only then
    assert not {name.split(".")[0] for name in imports(path)} & {"click", "tqdm"} - bars
    printing = {"print", "click.echo", "sys.stdout.write", "sys.stderr.write", "pprint", "input", "exit", "sys.exit"}
    assert not calls(path) & printing
    source = path.read_text()
    assert "sys.stdout" not in source
    assert "sys.stderr" not in source


@pytest.mark.parametrize("path", [path for path in CODE if room(path) in MATHEMATICS], ids=name_of)
def test_the_mathematics_touches_no_file(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FILES
    assert not own_imports(path) & {*DISK} - {room(path)}
    assert not calls(path) & {"open", "eval", "exec", "__import__", "torch.save", "torch.load", "np.save", "np.load"}


@pytest.mark.parametrize("path", [path for path in CODE if room(path) == "search"], ids=name_of)
def test_the_search_knows_neither_images_nor_networks(path: Path) -> None:
    assert not own_imports(path) & {"features", "reading"}


@pytest.mark.slow
@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_no_global_random_state_is_used(path: Path) -> None:
    assert "random" not in {name.split(".")[0] for name in imports(path)}
    assert not calls(path) & {"torch.manual_seed", "torch.seed", "np.random.seed", "numpy.random.seed"}
    draws = ("torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.multinomial")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in draws:
            assert "generator" in {keyword.arg for keyword in node.keywords}, ast.unparse(node)


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_nothing_is_unpickled(path: Path) -> None:
    assert "pickle" not in {name.split(".")[0] for name in imports(path)}
    assert not calls(path) & {"pickle.load", "pickle.loads"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "True" in [ast.unparse(one.value) for one in node.keywords if one.arg == "weights_only"]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "open_memmap"):
            safe = [ast.unparse(one.value) for one in node.keywords if one.arg == "allow_pickle"]
            assert safe == ["False"] or ast.unparse(node.func) == "open_memmap"  # which never unpickles


def test_public_names_resolve_and_are_functions_records_and_errors() -> None:
    names = imgsubset.__all__
    assert len(names) == len(set(names))
    functions = {name for name in names if inspect.isfunction(getattr(imgsubset, name))}
    assert functions == {
        *(
            "select",
            "select_into",
            "split",
            "split_into",
            "score",
            "compare",
            "embed",
            "estimate",
            "verify",
            "export",
            "hardness",
        ),
    }
    assert all(inspect.isclass(getattr(imgsubset, name)) for name in {*names} - functions)
    for name in names:
        assert getattr(imgsubset, name) is not None
        assert name.startswith("__") or not inspect.ismodule(getattr(imgsubset, name))
    assert inspect.getdoc(imgsubset)


@pytest.mark.parametrize("name", [name for name in imgsubset.__all__ if not name.startswith("__")])
def test_public_names_are_documented(name: str) -> None:
    assert inspect.getdoc(getattr(imgsubset, name))


def test_every_error_has_an_exit_code() -> None:
    errors = importlib.import_module("imgsubset.errors")
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert sorted(kind.exit_code for kind in kinds) == [1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert all(issubclass(kind, imgsubset.ImgsubsetError) for kind in kinds)
