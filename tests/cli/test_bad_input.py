"""Every kind of bad input, as a user meets it: one line with cause and cure, a status, nothing half-written.

What only looks bad (one channel, an alpha channel, 16 bits, EXIF rotation, 30 000 columns) has a plain meaning: works.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.bundles import write_small_bundle
from support.program import Outcome, Program

from samedge.bundle.manifest import MANIFEST_NAME
from samedge.models.sam.seeded import seeded_state


def check(done: Outcome, *parts: str, status: int = 1) -> None:
    """One line on stderr that names cause and cure."""
    lines = [line for line in done.err.splitlines() if "%" not in line[:5]]  # without the lines of progress
    assert done.status == status
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    assert ". " in lines[0], "the cure is a sentence of its own"
    for part in parts:
        assert part in lines[0]


class Gadget:
    """Makes a folder when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.victim),)


def checkpoints(folder: Path) -> dict[str, tuple[Path, str]]:
    """Writes bad checkpoints; returns each with a part of what is said about it."""
    state = seeded_state("sam_vit_tiny")
    paths = {name: folder / f"{name}.pt" for name in ("empty", "text", "cut", "gadget", "yolo", "partial", "shape")}
    paths["empty"].write_bytes(b"")
    paths["text"].write_text("<html>404</html>")
    torch.save(state, paths["cut"])
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:100_000])
    paths["gadget"].write_bytes(pickle.dumps(Gadget(folder / "executed")))
    torch.save({"model.0.conv.weight": torch.zeros(16, 3, 3, 3), "model.0.bn.weight": torch.zeros(16)}, paths["yolo"])
    torch.save({key: value for key, value in state.items() if "neck" not in key}, paths["partial"])
    torch.save(state | {"image_encoder.neck.0.weight": torch.zeros(3, 3)}, paths["shape"])
    return {name: (path, path.name) for name, path in paths.items()} | {
        "missing": (folder / "nothing.pt", "there is no such file"),
        "folder": (folder, folder.name),
    }


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "gadget", "yolo", "partial", "shape", "missing"])
def test_checkpoints(program: Program, tmp_path: Path, kind: str) -> None:
    path, says = checkpoints(tmp_path)[kind]
    before = sorted(tmp_path.iterdir())
    done = program("export", path, "-o", tmp_path / "bundle")
    check(done, says)
    assert done.out == ""
    assert sorted(tmp_path.iterdir()) == before, "nothing is written, and nothing in the file is executed"


def damage_graph(bundle: Path) -> None:
    graph = next(bundle.glob("*.encoder.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1000])


def change_graph(bundle: Path) -> None:
    graph = next(bundle.glob("*.decoder.onnx"))
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))


def swap_graphs(bundle: Path) -> None:
    manifest = bundle / MANIFEST_NAME
    text = manifest.read_text()
    manifest.write_text(text.replace('"point_labels"', '"point_label"'))


def cut_manifest(bundle: Path) -> None:
    manifest = bundle / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes()[:-40])


def lose_manifest(bundle: Path) -> None:
    """And its graphs: a pair of graphs opens without one."""
    for path in (bundle / MANIFEST_NAME, *bundle.glob("*.onnx")):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_graph, "it is truncated"),
        (change_graph, "SHA-256"),
        (swap_graphs, "point_label"),
        (cut_manifest, "not valid JSON"),
        (lose_manifest, f"no {MANIFEST_NAME}"),
        (lambda bundle: next(bundle.glob("*.decoder.onnx")).unlink(), "is missing"),
    ],
)
def test_bundles(program: Program, tmp_path: Path, photo: Path, damage: Callable[[Path], None], says: str) -> None:
    bundle = write_small_bundle(tmp_path / "bundle")
    damage(bundle)
    check(program("predict", bundle, photo, "--point", "10,10"), says)


def images(folder: Path) -> dict[str, Path]:
    """Writes files that are not images."""
    paths = {name: folder / f"{name}.png" for name in ("empty", "text", "cut", "missing")}
    paths["empty"].write_bytes(b"")
    paths["text"].write_text("not an image")
    _, data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8))
    paths["cut"].write_bytes(data.tobytes()[:300])
    return paths


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "missing"])
def test_images(program: Program, fake: Path, tmp_path: Path, kind: str) -> None:
    path = images(tmp_path)[kind]
    check(program("predict", fake, path, "--point", "10,10", "--save", tmp_path / "out.png"), path.name)
    assert not (tmp_path / "out.png").exists()


def unusual(folder: Path, kind: str) -> tuple[Path, tuple[int, int]]:
    """Writes an image that only looks bad; returns it and its size (height, width) as a viewer shows it."""
    path, pixels = folder / f"{kind}.png", np.random.default_rng(0).integers(0, 255, (40, 60, 4), dtype=np.uint8)
    if kind == "one channel":
        cv2.imwrite(str(path), pixels[..., 0])
    elif kind == "alpha":
        cv2.imwrite(str(path), pixels)
    elif kind == "16 bits":
        cv2.imwrite(str(path), pixels[..., :3].astype(np.uint16) * 257)
    elif kind == "30 000 columns":
        cv2.imwrite(str(path), np.zeros((4, 30_000, 3), np.uint8))
        return path, (4, 30_000)
    elif kind == "one pixel":
        cv2.imwrite(str(path), pixels[:1, :1, :3])
        return path, (1, 1)
    else:
        path = path.with_suffix(".jpg")
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned by 90 degrees
        Image.fromarray(pixels[..., :3]).save(path, exif=exif)
        return path, (60, 40)
    return path, (40, 60)


@pytest.mark.parametrize("kind", ["one channel", "alpha", "16 bits", "EXIF rotation", "30 000 columns", "one pixel"])
def test_images_that_only_look_bad_work(program: Program, fake: Path, tmp_path: Path, kind: str) -> None:
    path, (height, width) = unusual(tmp_path, kind)
    done = program("predict", fake, path, "--point", "0,0", "--json", "-")
    assert (done.status, done.err) == (0, "")
    document = json.loads(done.out)["images"][0]
    assert (document["height"], document["width"]) == (height, width)
    assert document["objects"][0]["segmentation"]["size"] == [height, width]


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        (("--point", "300,10"), "outside"),
        (("--point", "-1,10"), "outside"),
        (("--box", "300,10,400,50"), "outside"),
        (("--box", "50,10,20,40"), "box"),
        (("--point", "nan,3"), "invalid value"),
        (("--point", "1"), "invalid value"),
        (("--box", "1,2,3"), "invalid value"),
        (("--point", "1,2,7"), "label"),
        (("--box", "0,0,9,9", "--box", "9,9,20,20", "--point", "3,3"), "all points describe one object"),
        (("--multimask",), "no prompt given"),
        (("--pred-iou-thresh", "nan"), "invalid pred_iou_thresh nan"),
        (("--crop-n-layers", "9"), "its last layer would have 262,144 crops"),
    ],
)
def test_prompts(program: Program, fake: Path, photo: Path, prompts: tuple[str, ...], says: str) -> None:
    done = program("predict", fake, photo, *prompts)
    check(done, says)
    assert done.out == ""


@pytest.mark.parametrize("shape", [(5,), (2, 64, 64), (7, 9)])
def test_masks_of_a_wrong_shape(
    program: Program, fake: Path, photo: Path, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "mask.npy", np.zeros(shape, np.float32))
    check(program("predict", fake, photo, "--mask", tmp_path / "mask.npy"), "mask")


def test_a_full_disk(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onnx.save", full)
    check(program("export", "seeded:sam_vit_tiny", "-o", tmp_path / "bundle"), "No space left", "Free some space")
    assert list(tmp_path.iterdir()) == []


def test_no_permission(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    check(program("export", "seeded:sam_vit_tiny", "-o", tmp_path / "bundle"), "Permission denied", "permissions")


@pytest.mark.parametrize("option", ["--save", "--json", "--txt"])
def test_a_place_that_cannot_be_written(program: Program, fake: Path, photo: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("mine")
    check(program("predict", fake, photo, "--point", "9,9", option, tmp_path / "file" / "out.png"), "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_device_that_cannot_be_had(program: Program, tmp_path: Path, photo: Path) -> None:
    bundle = write_small_bundle(tmp_path / "bundle")
    check(program("predict", bundle, photo, "--point", "9,9", "--device", "warp"), "warp")
    check(program("predict", bundle, photo, "--point", "9,9", "--backend", "abacus"), "abacus", "onnxruntime")
