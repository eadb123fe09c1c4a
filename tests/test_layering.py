"""Rules of the code that neither ruff nor import-linter checks."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import imgsubset

ROOT = Path(inspect.getfile(imgsubset)).parent
MATHEMATICS = ("statistics", "search")
CODE = sorted(path for path in ROOT.rglob("*.py") if path not in (ROOT / "__init__.py", ROOT / "__main__.py"))


def package_of(path: Path) -> str:
    """The subpackage of a module, or the name of a root module."""
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


def calls(path: Path) -> set[str]:
    """Names of functions that a file calls."""
    nodes = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {ast.unparse(function) for function in nodes}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


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
@pytest.mark.parametrize("path", [path for path in CODE if package_of(path) != "cli"], ids=name_of)
def test_only_the_command_line_knows_click_and_prints(path: Path) -> None:
    bars = {"tqdm"} if name_of(path) == "progress.py" else set()  # for who asks for them in Python, imported only then
    assert not {name.split(".")[0] for name in imports(path)} & {"click", "tqdm"} - bars
    printing = {"print", "click.echo", "sys.stdout.write", "sys.stderr.write", "pprint", "input", "exit", "sys.exit"}
    assert not calls(path) & printing
    source = path.read_text()
    assert "sys.stdout" not in source
    assert "sys.stderr" not in source


@pytest.mark.parametrize("path", [path for path in CODE if package_of(path) in MATHEMATICS], ids=name_of)
def test_the_mathematics_touches_no_file(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {
        "os",
        "io",
        "pathlib",
        "shutil",
        "tempfile",
        "subprocess",
    }
    assert not calls(path) & {"open", "eval", "exec", "__import__", "torch.save", "torch.load", "np.save", "np.load"}


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
