"""Bundles for tests: a tiny one whose graphs are any bytes, and a real one of a small SAM with seeded weights."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from samedge.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileRecord,
    GraphRecord,
    InputRecord,
    Manifest,
    ModelRecord,
    ParityRecord,
    TensorRecord,
    encode_manifest,
    read_manifest,
)
from samedge.types import IOScheme, Verdict
from support.shared import made_once

CONTENTS: Mapping[str, bytes] = {
    "encoder.onnx": b"encoder" * 99,
    "encoder.data": b"weights" * 99,
    "decoder.onnx": b"d" * 9,
}


def model_record(checkpoint: bytes = b"checkpoint") -> ModelRecord:
    """Returns the record of a model that nobody made."""
    return ModelRecord(
        name="sam_vit",
        licence="Apache-2.0",
        checkpoint="small.pt",
        checkpoint_sha256=sha256(checkpoint).hexdigest(),
        seeded=True,
        layers=1,
        parameters=1,
        encoder_gflops=0.0,
        decoder_gflops=0.0,
    )


def file_record(name: str, data: bytes) -> FileRecord:
    """Returns the record of a file with this content."""
    return FileRecord(file=name, sha256=sha256(data).hexdigest(), size=len(data))


def any_manifest(verdict: Verdict = "passed") -> Manifest:
    """Returns the manifest of `CONTENTS`."""
    ports = {"x": TensorRecord("float32", (1,))}
    return Manifest(
        schema=SCHEMA_VERSION,
        model=model_record(),
        input=InputRecord(image_size=128, pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3, mask_threshold=0.0),
        io="native",
        graphs=tuple(
            GraphRecord(
                role=role,
                graph=file_record(f"{role}.onnx", CONTENTS[f"{role}.onnx"]),
                precision="fp32",
                opset=17,
                inputs=ports,
                outputs=ports,
                nodes=1,
                external_data=(file_record("encoder.data", CONTENTS["encoder.data"]),) if role == "encoder" else (),
            )
            for role in ("encoder", "decoder")
        ),
        parity=ParityRecord(verdict=verdict, mask_iou_min=0.5),
        created="2026-01-01T00:00:00+00:00",
        versions={},
    )


def write_any_bundle(folder: Path, verdict: Verdict = "passed") -> Path:
    """Writes a bundle whose files are whole and whose graphs are not graphs."""
    folder.mkdir(parents=True)
    for name, data in CONTENTS.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(any_manifest(verdict)))
    return folder


def pack(folder: Path, archive: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """Packs a bundle's folder into one file."""
    with zipfile.ZipFile(archive, "w", compression) as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, path.name)
    return archive


def write_small_bundle(folder: Path, io: IOScheme = "native", verdict: Verdict = "unchecked") -> Path:
    """Writes a bundle that runs: a small SAM (128 px, seeded weights `seeded_state(SMALL_VIT)`)."""
    shutil.copytree(_small_bundle(io), folder)
    path = folder / MANIFEST_NAME
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    path.write_bytes(encode_manifest(msgspec.structs.replace(manifest, parity=ParityRecord(verdict=verdict))))
    return folder


def _small_bundle(io: IOScheme) -> Path:
    """Traced once in a run: that is the slow part."""
    return made_once(f"small-{io}", lambda path: _trace_small_bundle(path, io))


def _trace_small_bundle(folder: Path, io: IOScheme) -> None:
    from samedge.export.graphs.onnx_file import save_graph
    from samedge.export.graphs.plans import plan_graphs
    from samedge.export.graphs.trace import trace
    from samedge.models.sam.build import empty_sam
    from samedge.models.sam.configs import IMAGENET, SMALL_VIT
    from samedge.models.sam.seeded import seeded_state

    folder.mkdir()
    sam = empty_sam(SMALL_VIT)
    sam.load_state_dict(seeded_state(SMALL_VIT))
    graphs = []
    for plan in plan_graphs(sam, io):
        if plan.role == "decoder" and io == "samexporter":  # Meta's, and tracing takes long
            donor = _small_bundle("meta")
            record = read_manifest(donor / MANIFEST_NAME).graph("decoder")
            shutil.copy(donor / record.graph.file, folder)
            graphs.append(record)
        elif plan.role != "decoder_single":  # which the runtime does not use
            graphs.append(save_graph(trace(plan, 17), plan, folder, "small", precision="fp32", opset=17))
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        model=model_record(),
        input=InputRecord(sam.image_size, IMAGENET.pixel_mean, IMAGENET.pixel_std, 0.0),
        io=io,
        graphs=tuple(graphs),
        parity=ParityRecord(verdict="unchecked"),
        created="2026-01-01T00:00:00+00:00",
        versions={},
    )
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
