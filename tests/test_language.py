"""The language of the package: how docstrings open, that every error has a cure, and one word for one thing."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import samedge
from samedge import errors

PACKAGE = Path(samedge.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ERRORS = {
    name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.SamedgeError)
}
QUESTION = re.compile(r"(what|how|which|where|whether|who|whom|whose|when|why)\b", re.IGNORECASE)
PICTURE = re.compile(r"\bpictures?\b", re.IGNORECASE)
FIELD = re.compile(r"""^\s*pictures: |["']pictures["']|^f"picture {side} {contrast}"$""")
"""A field of reports that users have, and its description; and a name that seeds random weights."""


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a module, its classes, functions and attributes, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    text = statement.value.value
                    if isinstance(text, str):
                        yield statement.lineno, text.strip()


def errors_without_cure(tree: ast.Module) -> Iterator[int]:
    """Yield the lines where an error of the package is made without a cure."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ERRORS:
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                cure = given.get("cure")
                if None not in given and (cure is None or (isinstance(cure, ast.Constant) and not cure.value)):
                    yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_language_of_a_module(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    questions = [(line, text.splitlines()[0]) for line, text in docstrings(tree) if QUESTION.match(text)]
    assert not questions, "docstrings are statements or noun phrases, not questions"
    assert not list(errors_without_cure(tree)), "every error says what to do about it"
    prose = [
        (token.start[0] + at, line.strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type in (tokenize.COMMENT, tokenize.STRING)
        for at, line in enumerate(token.string.splitlines())
        if PICTURE.search(line) and not FIELD.search(line)
    ]
    assert not prose, "an image is called an image"


def test_the_checks_find_what_they_look_for() -> None:
    tree = ast.parse(
        '"""What it is."""\nx = 1\n"""Whether x."""\nraise UsageError("no")\nraise UsageError("no", cure="Do")\n'
    )
    assert [line for line, text in docstrings(tree) if QUESTION.match(text)] == [1, 3]
    assert list(errors_without_cure(tree)) == [4]
