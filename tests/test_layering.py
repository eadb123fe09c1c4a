"""The rules that keep the layers apart, read from the imports."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import imgsubset

ROOT = Path(inspect.getfile(imgsubset)).parent
ORDER = (
    *("errors", "options", "progress", "cores", "listing", "sidecars", "filters", "images", "decoders", "features"),
    *("moments", "divergences", "langevin", "objective", "search", "noisefloor", "ingest", "embeddings", "copying"),
    *("cache", "source", "labels", "duplicates", "constraints", "manifest", "matching", "scoring", "comparison"),
    *(
        "checkpoint",
        "selection",
        "splits",
        "verification",
        "describe",
        "destination",
        "export",
        "report",
        "demo",
        "cli",
    ),
)
MATHEMATICS = ("features", "moments", "divergences", "langevin", "objective", "search", "noisefloor")
FILES = {
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fileinput", "mmap", "pickle", "subprocess", "PIL"),
    *("torchvision", "click", "tqdm", "sys", "logging", "json", "urllib", "socket", "warnings"),
}
OUTER = {"listing", "sidecars", "filters", "images", "decoders", *ORDER[ORDER.index("ingest") :]}
CODE = sorted(path for path in ROOT.rglob("*.py") if path not in (ROOT / "__init__.py", ROOT / "__main__.py"))


def layer(path: Path) -> str:
    """The name in ORDER of a file of the package."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


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
    """The layers of this package that a file imports."""
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("imgsubset.")}
    assert inner <= {*ORDER, "__version__"}, f"{path}: {inner - set(ORDER)} is in no layer"
    return inner - {"__version__"}


def calls(path: Path) -> set[str]:
    """Names of functions that a file calls."""
    nodes = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {ast.unparse(function) for function in nodes}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_order_names_every_module_once() -> None:
    assert {layer(path) for path in CODE} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_a_module_imports_earlier_ones_only(path: Path) -> None:
    place = ORDER.index(layer(path))
    inside = {layer(path)} & {"search", "cli"}
    assert own_imports(path) - inside <= set(ORDER[:place])


@pytest.mark.parametrize("path", [path for path in CODE if layer(path) != "cli"], ids=name_of)
def test_only_the_command_line_knows_click_and_prints(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"click", "tqdm"}
    printing = {"print", "click.echo", "sys.stdout.write", "sys.stderr.write", "pprint", "input", "exit", "sys.exit"}
    assert not calls(path) & printing
    source = path.read_text()
    assert "sys.stdout" not in source
    assert "sys.stderr" not in source


@pytest.mark.parametrize("path", [path for path in CODE if layer(path) in MATHEMATICS], ids=name_of)
def test_the_mathematics_touches_no_file(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FILES
    assert not own_imports(path) & OUTER
    assert not calls(path) & {"open", "eval", "exec", "__import__", "torch.save", "torch.load", "np.save", "np.load"}


@pytest.mark.parametrize("path", [path for path in CODE if layer(path) == "search"], ids=name_of)
def test_the_search_knows_neither_images_nor_networks(path: Path) -> None:
    assert not own_imports(path) & {"features", "images", "decoders"}


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
    assert not calls(path) & {"torch.load", "pickle.load", "pickle.loads"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "open_memmap"):
            safe = [ast.unparse(one.value) for one in node.keywords if one.arg == "allow_pickle"]
            assert safe == ["False"] or ast.unparse(node.func) == "open_memmap"  # which never unpickles


def test_public_names_resolve_and_are_ten_at_most() -> None:
    names = imgsubset.__all__
    assert len(names) == len(set(names)) <= 10
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
