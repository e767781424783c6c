"""Pairs of ONNX graphs without a manifest, of any exporter: recognised, described as a bundle, copied into one.

The manifest is made up from names, shapes and metadata of the graphs. What had to be guessed is among its notes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
import numpy as np

from samedge.bundle.dialects import DIALECTS, SAM_MEAN, SAM_STD, DecoderDialect, EncoderDialect
from samedge.bundle.foreign_graphs import ForeignGraph, recognise
from samedge.bundle.manifest import (
    ANY_SHAPE,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileRecord,
    GraphRecord,
    GraphRole,
    InputRecord,
    Manifest,
    ModelRecord,
    ParityRecord,
    TensorRecord,
    encode_manifest,
)
from samedge.engines.onnx_header import Axes, OnnxContents, read_onnx_contents
from samedge.errors import BundleError, EngineError, SamedgeError, UsageError
from samedge.storage.atomic import staged_folder
from samedge.storage.files import sha256_file, storage_errors
from samedge.types import TensorSpec

SUBFOLDER: Final = "onnx"
"""Folder of the graphs in models on the Hugging Face hub."""
_QUANTISED: Final = ("quant", "int8", "uint8", "fp16", "float16", "bnb4", "_q4", "_q8")
_STRIDE: Final = 16
_ENDINGS: Final = ("encoder", "decoder", "vision", "image", "vit", "onnx", "mask", "prompt")


@dataclass(frozen=True, slots=True)
class PlainGraph:
    """An ONNX file and the convention that it follows, if any.

    Attributes:
        path: The file.
        contents: What it says.
        convention: How it is run; None if unknown.
    """

    path: Path
    contents: OnnxContents
    convention: ForeignGraph | None

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Name to shape and dtype."""
        return specs_of(self.contents.inputs)

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Name to shape and dtype."""
        return specs_of(self.contents.outputs)

    @property
    def masks(self) -> int | None:
        """Number of masks that a decoder returns; None if unknown."""
        record = None if self.convention is None else self.convention.record
        if not isinstance(record, DecoderDialect) or record.low_res not in self.outputs:
            return None
        shape = self.outputs[record.low_res].shape
        return shape[-3] if len(shape) > 3 and isinstance(shape[-3], int) else None


def specs_of(ports: Mapping[str, tuple[str, Axes | None]]) -> dict[str, TensorSpec]:
    """Return shapes and dtypes from those of a file; an axis without a name gets one, and an unknown rank is "*"."""
    return {
        name: TensorSpec(
            ANY_SHAPE if axes is None else tuple(at if one is None else one for at, one in named(axes)),
            np.dtype(dtype or "O"),
        )
        for name, (dtype, axes) in ports.items()
    }


def named(axes: Axes) -> Iterable[tuple[str, int | str | None]]:
    """Yield a name for each axis, and the axis."""
    return ((f"axis{number}", axis) for number, axis in enumerate(axes))


def read_plain_graph(path: Path) -> PlainGraph:
    """Read an ONNX file and recognise its convention.

    Raises:
        EngineError: It is not ONNX.
        StorageError: It cannot be read.
    """
    contents = read_onnx_contents(path)
    return PlainGraph(path, contents, recognise(specs_of(contents.inputs), specs_of(contents.outputs)))


def is_half(path: Path) -> bool:
    """Return True if a file is the encoder or decoder of a SAM in ONNX, of any tool."""
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return False
    try:
        convention = read_plain_graph(path).convention
    except SamedgeError:
        return False
    return convention is not None and convention.record is not None


def find_pair(folder: Path, given: Path | None = None) -> tuple[PlainGraph, PlainGraph]:
    """Return encoder and decoder in a folder, or in its subfolder "onnx".

    Of several encoders or decoders, those in float32 and with several masks go first.

    Args:
        folder: The folder.
        given: A file in it that must be one of them.

    Raises:
        BundleError: There is no such pair, or more than one.
        StorageError: The folder cannot be read.
    """
    with storage_errors(folder, "read"):
        files = sorted(folder.glob("*.onnx")) or sorted((folder / SUBFOLDER).glob("*.onnx"))
    graphs: list[PlainGraph] = []
    for file in files:
        try:
            graphs.append(read_plain_graph(file))
        except EngineError:
            if file == given:
                raise
    if given is not None:
        own = next((graph for graph in graphs if graph.path == given), None) or read_plain_graph(given)
        part = _part(own)
        if own.convention is None or own.convention.record is None:
            raise BundleError(
                f"this graph is not the encoder or decoder of a SAM that can be run here ({_described(own)})",
                where=given,
                cure=f"See what it is: samedge inspect {given.name}; samedge.YOLO opens the graphs of YOLO and FastSAM",
            )
        graphs = [graph for graph in graphs if graph is own or _part(graph) != part]
        if any(_alike(graph.path, given) for graph in graphs if graph is not own):
            graphs = [graph for graph in graphs if graph is own or _alike(graph.path, given)]
    return _only(folder, "encoder", graphs), _only(folder, "decoder", graphs)


def _part(graph: PlainGraph) -> str:
    return "" if graph.convention is None else graph.convention.part


def _alike(a: Path, b: Path) -> bool:
    """Return True if the names of two files are the same but for the part of the model."""
    return model_name(a) == model_name(b)


def _only(folder: Path, part: str, graphs: list[PlainGraph]) -> PlainGraph:
    found = [graph for graph in graphs if _part(graph) == part]
    usable = [graph for graph in found if graph.convention is not None and graph.convention.record is not None]
    if not usable:
        raise no_pair(folder, part, graphs)
    ranked = sorted(usable, key=_rank)
    rivals = [graph for graph in ranked if _rank(graph) == _rank(ranked[0])]
    if len(rivals) > 1:
        names = ", ".join(graph.path.name for graph in rivals)
        raise BundleError(
            f"the folder has {len(rivals)} {part}s: {names}",
            where=folder,
            cure="Name the pair: samedge.load(encoder=..., decoder=...), or give one of the files",
        )
    return ranked[0]


def _rank(graph: PlainGraph) -> tuple[bool, bool]:
    name = graph.path.stem.lower()
    return any(word in name for word in _QUANTISED), graph.masks == 1


def no_pair(folder: Path, part: str, graphs: list[PlainGraph]) -> BundleError:
    """Return the error for a folder without an encoder or a decoder that can be run."""
    others = [f"{graph.path.name} ({_described(graph)})" for graph in graphs]
    message = f"the folder has ONNX graphs and no {MANIFEST_NAME}: the export did not end, or another tool wrote it"
    if others:
        message += f"; there is no {part} of a SAM among {', '.join(others)}"
    return BundleError(
        message, where=folder, cure="See what they are: samedge inspect FILE; or export the checkpoint: samedge export"
    )


def _described(graph: PlainGraph) -> str:
    convention = graph.convention
    return "unknown" if convention is None else f"{convention.part}: {convention.producer}"


def pair_manifest(folder: Path, encoder: PlainGraph, decoder: PlainGraph) -> Manifest:
    """Return a manifest for a pair of graphs, whose files are named relative to a folder where they lie in it.

    Raises:
        BundleError: They do not belong together, or are not encoder and decoder.
        StorageError: A file cannot be read.
    """
    front, back = _record_of(encoder, EncoderDialect), _record_of(decoder, DecoderDialect)
    io = scheme_of(front, back, decoder)
    size, notes = _image_size(front, encoder, decoder)
    _require_channels(encoder, decoder)
    told = encoder.contents.metadata
    licence = told.get("license") or told.get("licence")
    graphs = (_graph_record("encoder", folder, encoder), _graph_record("decoder", folder, decoder))
    mean, std = _pixel_figures(told)
    versions = {graph.contents.producer: "" for graph in (encoder, decoder) if graph.contents.producer}
    with storage_errors(encoder.path, "read"):
        written = datetime.fromtimestamp(encoder.path.stat().st_mtime, timezone.utc)
    return Manifest(
        schema=SCHEMA_VERSION,
        model=ModelRecord(
            name=told.get("model") or model_name(encoder.path),
            licence=licence or "unknown: the graphs do not say",
            checkpoint=told.get("checkpoint") or encoder.path.name,
            checkpoint_sha256=told.get("checkpoint_sha256") or graphs[0].graph.sha256,
            seeded=told.get("seeded") == "True",
            layers=0,
            parameters=0,
            encoder_gflops=0.0,
            decoder_gflops=0.0,
        ),
        input=InputRecord(image_size=size, pixel_mean=mean, pixel_std=std, mask_threshold=0.0),
        io=io,
        graphs=graphs,
        parity=ParityRecord(verdict="unchecked"),
        created=written.isoformat(timespec="seconds"),
        versions=versions,
        notes=(f"no manifest, told by names: encoder of {front.producer}, decoder of {back.producer}", *notes),
    )


def _record_of(graph: PlainGraph, kind: type[EncoderDialect] | type[DecoderDialect]) -> Any:
    record = None if graph.convention is None else graph.convention.record
    if not isinstance(record, kind):
        part = "an encoder" if kind is EncoderDialect else "a decoder"
        raise BundleError(
            f"this is not {part} of a SAM that can be run here ({_described(graph)})",
            where=graph.path,
            cure=f"See what it is: samedge inspect {graph.path.name}",
        )
    return record


def scheme_of(encoder: EncoderDialect, decoder: DecoderDialect, graph: PlainGraph) -> str:
    """Return the name of the I/O scheme of a pair; BundleError if the decoder needs what the encoder does not give."""
    name = f"{encoder.name}+{decoder.name}"
    if name not in DIALECTS:
        missing = sorted(set(decoder.features) - set(encoder.features))
        raise BundleError(
            f"the decoder reads {missing[0]!r}, which the encoder ({encoder.producer}) does not give",
            where=graph.path,
            cure=f"Give the encoder that {decoder.producer} wrote with it",
        )
    return name


def _image_size(record: EncoderDialect, encoder: PlainGraph, decoder: PlainGraph) -> tuple[int, list[str]]:
    """Return the side of the square that prompts refer to, px, and a note if it was guessed."""
    told = encoder.contents.metadata.get("imgsz", "").strip("[]").split(",")[0]
    if told.isdecimal():
        return int(told), []
    side = encoder.inputs[record.input].shape[-1] if record.layout != "hwc" else ""
    grid = decoder.inputs["image_embeddings"].shape[-1]
    if not isinstance(grid, int):
        grid = next((out.shape[-1] for out in encoder.outputs.values() if len(out.shape) == 4), "")
    if isinstance(grid, int) and (not isinstance(side, int) or side in (grid * _STRIDE, grid * _STRIDE // 2)):
        # EfficientViT-SAM reads smaller images than those that its prompts refer to.
        sure = isinstance(side, int)
        return grid * _STRIDE, [] if sure else [
            f"input {grid * _STRIDE} px assumed: sixteen times the embedding's side"
        ]
    if isinstance(side, int):
        return side, []
    return 1024, ["input 1024 px assumed: the graphs leave it open"]


def _require_channels(encoder: PlainGraph, decoder: PlainGraph) -> None:
    """Raise BundleError if the decoder takes other embeddings than the encoder gives."""
    want = decoder.inputs["image_embeddings"].shape
    given = encoder.outputs.get("image_embeddings")
    if given is None or ANY_SHAPE in (given.shape, want) or len(given.shape) != len(want):
        return
    for have, axis in zip(given.shape[1:], want[1:], strict=True):
        if isinstance(have, int) and isinstance(axis, int) and have != axis:
            raise BundleError(
                f"the encoder gives embeddings {list(given.shape)}, and the decoder takes {list(want)}",
                where=decoder.path,
                cure="Give the pair that was exported together",
            )


def _pixel_figures(metadata: Mapping[str, str]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and deviation of pixels from the metadata, or those of every released SAM."""
    found = []
    for name, usual in (("mean", SAM_MEAN), ("std", SAM_STD)):
        try:
            red, green, blue = msgspec.json.decode(metadata.get(name, ""), type=tuple[float, float, float])
            found.append((red, green, blue))
        except msgspec.DecodeError:
            found.append(usual)
    return found[0], found[1]


def model_name(path: Path) -> str:
    """Return the name of the model from that of a graph's file, without the part of the model."""
    words = path.stem.replace("-", "_").replace(".", "_").split("_")
    kept = [word for word in words if word.lower() not in _ENDINGS]
    return "_".join(kept) or path.resolve().parent.name


def _graph_record(role: GraphRole, folder: Path, graph: PlainGraph) -> GraphRecord:
    contents = graph.contents
    ports = [
        {name: TensorRecord(spec.dtype.name, spec.shape) for name, spec in specs.items()}
        for specs in (graph.inputs, graph.outputs)
    ]
    dtypes = {dtype for dtype, _ in contents.inputs.values()}
    return GraphRecord(
        role=role,
        graph=_file_record(folder, graph.path),
        precision="fp16" if "float16" in dtypes else "fp32",
        opset=contents.opset,
        inputs=ports[0],
        outputs=ports[1],
        nodes=len(contents.nodes),
        external_data=tuple(_file_record(folder, _beside(graph.path, name)) for name in sorted(contents.external)),
    )


def _beside(path: Path, name: str) -> Path:
    """Return the path of a file with weights; BundleError if it is not beside the graph or missing."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name or not name:
        raise BundleError(f"its weights are outside of its folder: {name!r}", where=path, cure="Export the graph again")
    if not (path.parent / parts).is_file():
        raise BundleError(f"the file with its weights is missing: {name}", where=path, cure="Copy it beside the graph")
    return path.parent / parts


def _file_record(folder: Path, path: Path) -> FileRecord:
    with storage_errors(path, "read"):
        status = path.stat()
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path.resolve())
    return FileRecord(name, _digest(path, status.st_size, status.st_mtime_ns), status.st_size)


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, computed once in a process."""
    del size, changed
    return sha256_file(path)


def import_graphs(pair: Manifest, source: Path, output: Path) -> Manifest:
    """Copy a pair of graphs into a new bundle.

    Args:
        pair: Of `pair_manifest`.
        source: The folder that its files are relative to.
        output: The bundle's folder.

    Raises:
        UsageError: There is something at that path.
        StorageError: A file cannot be copied.
    """
    if output.exists():
        raise UsageError("there is something at this path", where=output, cure="Give another path: -o PATH")
    with staged_folder(output, replace=False) as stage:
        graphs = []
        for graph in pair.graphs:
            home = (source / graph.graph.file).parent
            moved = [_copied(source / file.file, home, stage, file) for file in graph.files]
            graphs.append(msgspec.structs.replace(graph, graph=moved[0], external_data=tuple(moved[1:])))
        manifest = msgspec.structs.replace(pair, graphs=tuple(graphs))
        with storage_errors(output):
            (stage / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest


def _copied(path: Path, home: Path, stage: Path, record: FileRecord) -> FileRecord:
    name = path.relative_to(home)  # where the graph looks for its weights
    with storage_errors(stage / name):
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, stage / name)
    return msgspec.structs.replace(record, file=name.as_posix())
