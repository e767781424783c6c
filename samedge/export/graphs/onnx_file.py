"""ONNX files on disk: saved with or without external data, checked, and described for the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import onnx
from onnx import helper

from samedge.bundle.manifest import FileRecord, GraphRecord, TensorRecord
from samedge.errors import ExportError
from samedge.storage.files import sha256_file, storage_errors
from samedge.types import Precision

if TYPE_CHECKING:  # it imports torch, which boards lack
    from samedge.export.graphs.plans import GraphPlan

EXTERNAL_DATA_BYTES: Final = 64_000_000
"""Size from which weights go to a separate file, which runtimes map instead of copying: graphs open faster and in less
memory. Protobuf could hold 2 GiB."""


def save_graph(
    model: onnx.ModelProto,
    plan: GraphPlan,
    folder: Path,
    stem: str,
    *,
    precision: Precision,
    opset: int,
    variant: str | None = None,
) -> GraphRecord:
    """Save a graph into a bundle's folder, check the file, and return its record.

    Args:
        model: The graph with its weights, which are removed if they go to a separate file.
        plan: The plan it was traced from.
        folder: The bundle's folder.
        stem: Beginning of the file name.
        precision: For the record.
        opset: For the record.
        variant: For the record; the plan's by default.

    Raises:
        ExportError: The file does not pass the ONNX checker.
        StorageError: The file cannot be written.
    """
    path = folder / f"{stem}.{plan.role.replace('_', '.')}.onnx"
    nodes = len(model.graph.node)
    inputs, outputs = _tensor_records(model.graph.input), _tensor_records(model.graph.output)
    data = write_model(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the {plan.role} graph is not valid ONNX: {str(error).splitlines()[0]}",
            where=path,
            cure="Report this with your torch and onnx versions",
        ) from error
    return GraphRecord(
        role=plan.role,
        graph=file_record(path, folder),
        precision=precision,
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        nodes=nodes,
        variant=variant or plan.variant,
        external_data=(file_record(data, folder),) if data is not None else (),
    )


def write_model(model: onnx.ModelProto, path: Path) -> Path | None:
    """Write a graph, and return the path of the separate file of large weights, or None.

    The weights are removed from `model` if they go to a separate file.

    Raises:
        StorageError: A file cannot be written.
    """
    data = path.with_name(path.name + ".data")
    with storage_errors(path):
        if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < EXTERNAL_DATA_BYTES:
            onnx.save(model, str(path))
            return None
        onnx.save(
            model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=data.name,
            size_threshold=1024,
        )  # fmt: skip
        data.chmod(path.stat().st_mode)  # onnx makes it readable only by its owner
    return data


def add_metadata(record: GraphRecord, folder: Path, doc: str, metadata: Mapping[str, str]) -> GraphRecord:
    """Append ``doc_string`` and ``metadata_props`` to a graph's file, and return its new record.

    Protobuf merges appended messages, so that the graph itself is not read.

    Raises:
        StorageError: The file cannot be written.
    """
    addition, path = onnx.ModelProto(doc_string=doc), folder / record.graph.file
    helper.set_model_props(addition, dict(metadata))
    with storage_errors(path), path.open("ab") as file:
        file.write(addition.SerializeToString())
    return msgspec.structs.replace(record, graph=file_record(path, folder))


def remove_graph(record: GraphRecord, folder: Path) -> None:
    """Delete the files of a graph."""
    for file in record.files:
        with storage_errors(folder / file.file):
            (folder / file.file).unlink(missing_ok=True)


def file_record(path: Path, folder: Path) -> FileRecord:
    """Return the record of a file, with its path relative to the folder."""
    digest = sha256_file(path)
    return FileRecord(file=path.relative_to(folder).as_posix(), sha256=digest, size=path.stat().st_size)


def _tensor_records(values: object) -> dict[str, TensorRecord]:
    records: dict[str, TensorRecord] = {}
    for value in values:  # type: ignore[attr-defined]  # a protobuf repeated field
        tensor = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = tuple(axis.dim_param or int(axis.dim_value) for axis in tensor.shape.dim)
        records[value.name] = TensorRecord(dtype=str(dtype), shape=shape)
    return records
