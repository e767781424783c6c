"""Layers ask the family's line in the table; none asks which family it is, but in the modules of that family."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from samedge.families import FAMILIES
from samedge.models.sam.encoders.families import ENCODERS

PACKAGE = Path(__file__).parents[2] / "samedge"

OWN = {
    "yolo": ("yolo",),
    "fastsam": ("yolo", "fastsam"),
    "sam": ("sam",),
    "sam_vit": ("vit",),
    "tiny_vit_sam": ("vit",),
}
"""By name of a family or an encoder, what the paths of its own modules have in them."""
CLASSES = {
    **dict.fromkeys(("Yolo", "YoloConfig", "LoadedYolo", "YoloPredictor", "YOLO", "FastSAM"), "yolo"),
    **dict.fromkeys(("Sam", "SamConfig", "LoadedModel", "Predictor", "SAM"), "sam"),
    **dict.fromkeys(("ViTConfig", "ImageEncoderViT", "FoldedViT"), "sam_vit"),
    **dict.fromkeys(("TinyViTConfig", "TinyViT", "FoldedTinyViT"), "tiny_vit_sam"),
}
"""Classes that only one family has."""


def is_own(path: Path, family: str) -> bool:
    inside = path.relative_to(PACKAGE).as_posix()
    return any(word in inside for word in OWN[family])


def questions(path: Path) -> Iterator[str]:
    """Give what a module asks about families that it is not of."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for family, what in (*_classes(node), *_names(node), *_records(node), *_functions(node)):
            if not is_own(path, family):
                yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)} asks {what}"


def _classes(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
        for part in ast.walk(node.args[1]):
            name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
            if name in CLASSES:
                yield CLASSES[name], f"for the class {name}"


def _names(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, (ast.Compare, ast.MatchValue)):
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and part.value in OWN:
                yield str(part.value), f"for the name {part.value!r}"


def _records(node: ast.AST) -> Iterator[tuple[str, str]]:
    records = {family.record: family.name for family in FAMILIES if family.record}
    if isinstance(node, ast.Compare):
        for part in (node.left, *node.comparators):
            if isinstance(part, ast.Attribute) and part.attr in records:
                yield records[part.attr], f"for the record .{part.attr}"


def _functions(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Name) and node.id.startswith("is_"):
        for family in ("yolo", "fastsam", "sam", "vit"):
            if family in node.id.split("_"):
                yield {"vit": "sam_vit"}.get(family, family), f"{node.id}()"


def test_no_module_asks_for_the_family_of_another() -> None:
    assert not [question for path in sorted(PACKAGE.rglob("*.py")) for question in questions(path)]


def test_questions_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    module = tmp_path / "module.py"
    module.write_text(
        "isinstance(x, (int, models.LoadedYolo))\nfamily == 'sam'\nmanifest.yolo is not None\nif is_yolo(x): pass\n"
        "encoder.family in ('sam_vit',)\n"
    )
    assert len(list(questions(module))) == 5
    own = tmp_path / "sam_yolo_vit.py"
    own.write_text(module.read_text())
    assert not list(questions(own))


def test_every_line_of_the_tables_leads_somewhere() -> None:
    for family in FAMILIES:
        for target in (family.loader, family.exporter, family.opener, family.parity, family.engines, family.command,
                       family.bench):  # fmt: skip
            assert family.make(target)
    for encoder in ENCODERS:
        assert encoder.model()
        assert encoder.known()
