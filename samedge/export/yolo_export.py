"""From a checkpoint of YOLOv8 or FastSAM to one ONNX file that says what it is and that it was proved.

The file runs here, in Ultralytics' own runtime and wherever its exports run: tensors and metadata have their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx

import samedge
from samedge.cache import cache_folder
from samedge.digest import sha256_file
from samedge.engines.registry import open_engine
from samedge.engines.whole_files import staged_file
from samedge.errors import ExportError, UsageError, storage_errors
from samedge.export.trace import trace
from samedge.export.yolo_graphs import plan_yolo
from samedge.export.yolo_parity import YoloParity, check_yolo
from samedge.models.weights import SEEDED, find_checkpoint
from samedge.models.yolo_configs import named_yolo_config
from samedge.models.yolo_load import LoadedYolo, load_yolo
from samedge.models.yolo_seeded import seeded_yolo_digest
from samedge.runtime.letterbox import MAX_STRIDE
from samedge.runtime.yolo_graph import PARITY, yolo_metadata

YOLO_OPSETS: Final = range(12, 21)


def export_yolo(
    model: str | Path,
    output: str | Path | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    dynamic: bool = True,
    opset: int = 17,
    check: bool = True,
) -> Path:
    """Writes a YOLOv8 or FastSAM as an ONNX file, proves it against the torch model, and returns its path.

    Args:
        model: Path of a checkpoint, a known name, or "seeded:yolov8n-seg" and the like.
        output: The file; by default the checkpoint's name with the ending ``.onnx`` in the working folder.
        image_size: Side of the input, or (height, width), px, multiples of 32; what the model was trained at if None.
        dynamic: Leave height and width free, so that the host can cut the padding down.
        opset: ONNX opset, 12 to 20.
        check: Compare the graph with the torch model on the probe images and write the verdict into the file.

    Raises:
        UsageError: An option that means nothing.
        CheckpointError: The checkpoint cannot be read, or is of another architecture.
        ExportError: The graph could not be written.
        StorageError: The file system said no.
    """
    if opset not in YOLO_OPSETS:
        raise UsageError(
            f"opset {opset} is not supported", cure=f"Choose {YOLO_OPSETS.start} to {YOLO_OPSETS.stop - 1}"
        )
    loaded = load_yolo(model)
    size = _checked_size(loaded.image_size if image_size is None else image_size)
    target = Path(output) if output is not None else Path(f"{Path(model).stem.replace(':', '-')}.onnx")
    graph = trace(plan_yolo(loaded.model, size, dynamic=dynamic), opset)
    with staged_file(target) as stage:
        parity = YoloParity("unchecked")
        if check:
            _write(graph, stage)
            with open_engine(stage, backend="onnxruntime", device="cpu") as engine:
                parity = check_yolo(loaded.model, engine, size, rect=dynamic)
        onnx.helper.set_model_props(graph, _metadata(loaded, size, parity, dynamic=dynamic))
        _write(graph, stage)
    return target


def cached_yolo(model: str | Path) -> Path:
    """Returns the ONNX file of a checkpoint with free sizes, exporting it into the cache if it is not there yet.

    Raises:
        SamedgeError: As `export_yolo`.
    """
    source = str(model)
    if source.startswith(SEEDED):
        name = source.removeprefix(SEEDED)
        named_yolo_config(name)
        digest, stem = seeded_yolo_digest(name), name
    else:
        path = find_checkpoint(model)
        source, digest, stem = str(path), sha256_file(path), path.stem
    target = cache_folder() / "exports" / f"{stem}-{digest[:16]}-{samedge.__version__}.onnx"
    if not target.is_file():
        export_yolo(source, target)
    return target


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < MAX_STRIDE or height % MAX_STRIDE or width % MAX_STRIDE:
        raise UsageError(
            f"an image size of {height} x {width} px is not possible for this model",
            cure=f"Choose multiples of {MAX_STRIDE}",
        )
    return height, width


def _metadata(loaded: LoadedYolo, size: tuple[int, int], parity: YoloParity, *, dynamic: bool) -> dict[str, str]:
    names = loaded.names or {number: str(number) for number in range(loaded.model.config.classes)}
    return yolo_metadata(
        names,
        size,
        "segment" if loaded.model.config.segments else "detect",
        description=f"{loaded.name}, exported by samedge",
        author="samedge",
        version=samedge.__version__,
        license=loaded.licence,
        args=repr({"dynamic": dynamic, "nms": False, "batch": 1}),
        checkpoint=loaded.checkpoint,
        checkpoint_sha256=loaded.sha256,
        seeded=str(loaded.seeded),
        **{PARITY: parity.to_json()},
    )


def _write(graph: onnx.ModelProto, path: Path) -> None:
    with storage_errors(path):
        onnx.save(graph, str(path))
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the graph is not valid ONNX: {str(error).splitlines()[0]}",
            where=path,
            cure="Report this with your torch and onnx versions",
        ) from error
