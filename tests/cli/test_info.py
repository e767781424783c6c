"""``samedge info``: what is shown of bundles and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from support.bundles import any_manifest, pack, write_any_bundle, write_small_bundle
from support.program import Program

from samedge.bundle.manifest import MANIFEST_NAME, encode_manifest

TINY = "seeded:sam_vit_tiny"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "small-samedge")


def test_a_bundle(program: Program, bundle: Path) -> None:
    done = program("info", bundle)
    assert (done.status, done.err) == (0, "")
    for text in (
        "sam_vit (seeded random weights: masks mean nothing)", "Apache-2.0", "small.pt", "native", "unchecked",
        "small.encoder.onnx", "small.decoder.onnx", "image_embeddings", "prompts × points × 2", "int32",
    ):  # fmt: skip
        assert text in done.out


def test_every_form_of_a_bundle_is_the_same(program: Program, bundle: Path, tmp_path: Path, cache: Path) -> None:
    packed = pack(bundle, tmp_path / "small.samedge")
    documents = [json.loads(program("info", path, "--json").out) for path in (bundle, bundle / MANIFEST_NAME, packed)]
    assert documents[0] == documents[1] == documents[2]
    assert list(cache.iterdir()) == []  # nothing is unpacked


def test_json_holds_the_whole_manifest(program: Program, bundle: Path) -> None:
    document = json.loads(program("info", bundle, "--json").out)
    manifest = json.loads((bundle / MANIFEST_NAME).read_bytes())
    assert {name: document[name] for name in manifest} == manifest
    size = sum(path.stat().st_size for path in bundle.iterdir() if path.name != MANIFEST_NAME)
    assert document["size_bytes"] == size


def test_the_manifest_is_enough(program: Program, tmp_path: Path) -> None:
    folder = write_any_bundle(tmp_path / "any", verdict="failed")
    for path in folder.iterdir():
        if path.name != MANIFEST_NAME:
            path.unlink()
    done = program("info", folder)
    assert (done.status, "failed" in done.out) == (0, True)


def test_what_a_manifest_says_is_no_markup(program: Program, tmp_path: Path) -> None:
    folder = write_any_bundle(tmp_path / "any [/b]" / "c")
    manifest = any_manifest()
    model = msgspec.structs.replace(manifest.model, licence="[/red] see [link]", checkpoint="[bold]x.pt")
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(msgspec.structs.replace(manifest, model=model)))
    done = program("info", folder)
    assert done.status == 0
    for text in ("any [/b]", "[/red] see [link]", "[bold]x.pt"):
        assert text in done.out


def test_a_checkpoint(program: Program, cache: Path) -> None:
    done = program("info", TINY)
    assert done.status == 0
    for text in ("sam_vit_tiny (seeded", "none needed", "4,927,600", "GFLOPs", "encoder 0.1"):
        assert text in done.out
    assert "I/O scheme" not in done.out
    document = json.loads(program("info", TINY, "--json").out)
    assert document["model"]["parameters"] == 4_927_600
    assert document["size_bytes"] is None
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such.pt", "no_such.pt: there is no such file. Check the path, or name released weights: sam_demo, sam_b"),
        (".", "not a bundle: it has no manifest.json"),
        ("text.samedge", "text.samedge: the file is not a bundle, or is damaged"),
        ("text.pt", "text.pt: "),
        ("seeded:nonsense", "there are no seeded weights for 'nonsense'"),
    ],
)
def test_what_is_neither(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("text.samedge", "text.pt"):
        Path(file).write_text("text")
    done = program("info", name)
    assert (done.status, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert message in done.err
