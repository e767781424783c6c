"""The package as a whole: what importing it costs, what it shows, and what is shipped."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import samedge
from samedge import errors

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "samedge"
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "cv2",
    "tensorrt",
    "tensorrt_rtx",
    "openvino",
    "PIL",
    "rich",
    "typer",
    "ultralytics",
)


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_brings_in_nothing_heavy() -> None:
    assert not modules_after("import samedge").intersection([*HEAVY, "numpy", "samedge.export", "samedge.models"])


@pytest.mark.parametrize(
    "statement", ["import samedge.api.load", "import samedge; samedge.load", "import samedge.cli.app"]
)
def test_the_runtime_and_the_command_line_bring_in_no_torch(statement: str) -> None:
    loaded = modules_after(statement)
    assert not loaded.intersection({"torch", "onnx", "onnxruntime", "cv2", "samedge.models", "samedge.export.exporter"})


def test_all_is_what_is_public() -> None:
    assert sorted(samedge.__all__) == sorted(set(samedge.__all__))
    assert set(samedge.__all__) == {*samedge._HOMES, "__version__"}
    for name in samedge.__all__:
        value = getattr(samedge, name)
        assert value is not None
        if name in samedge._HOMES:
            assert value is getattr(importlib.import_module(samedge._HOMES[name]), name)
    with pytest.raises(AttributeError, match="nonsense"):
        getattr(samedge, "nonsense")  # noqa: B009 - a constant, so that mypy does not see it


def test_no_public_name_shadows_a_subpackage() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert not folders.intersection(samedge.__all__)
    for folder in folders:
        assert importlib.import_module(f"samedge.{folder}").__name__ == f"samedge.{folder}"


def test_links_point_to_the_package() -> None:
    for name in ("export", "engines", "benchmarks"):
        link = ROOT / name
        if not link.is_symlink():
            pytest.skip("checked out where links are not supported")
        assert link.readlink() == Path("samedge") / name


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    assert errors.__doc__ is not None
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.SamedgeError):
            assert name in errors.__doc__, f"{name} is missing in the drawing"
            assert issubclass(value, errors.SamedgeError)


def test_errors_are_one_line_with_cause_and_cure_and_keep_their_facts() -> None:
    error = errors.ImageError("it has\nno pixels", where="a.png", cure="Give another image", size=(0, 3))
    assert str(error) == "a.png: it has no pixels. Give another image"
    assert error.size == (0, 3)
    with pytest.raises(AttributeError):
        _ = error.colour


def test_dependencies_point_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_names_of_modules_in_strings_exist() -> None:
    """Tables of strings and children are told what to import: a module that moves must not leave its name behind."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            match = re.fullmatch(r"(samedge(?:\.\w+)+)(?::(\w*))?", node.value)
            if match is None or path.name == "moved.py":
                continue
            source = PACKAGE.parent.joinpath(*match[1].split("."))
            source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
            assert source.is_file(), f"{path.relative_to(ROOT)} names {node.value}"
            if match[2]:
                assert re.search(rf"^(def|class) {match[2]}\b", source.read_text(), re.MULTILINE), node.value


def test_sdist_to_wheel_ships_the_whole_package_and_only_it(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)  # the wheel is built from the sdist
    shipped = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == shipped
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        packed = {"/".join(Path(name).parts[1:]) for name in sdist.getnames()}
    assert shipped <= packed
    assert {"LICENSE", "README.md", "pyproject.toml", "constraints.txt"} <= packed
