"""Baseline graphs: the reference packages' models, exported by torch alone.

Called in child processes, so that neither torch nor its memory is in the measuring process.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx.utils
import torch

from samedge.benchmarks.reference.packages import mobile_sam, reference_of, reference_package
from samedge.models.sam.configs import IMAGENET
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.image.read import as_bgr

OPSET = 17

DECODER_INPUTS = (
    "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
)  # fmt: skip
DECODER_OUTPUTS = ("masks", "iou_predictions", "low_res_masks")


def write_encoder_input(image: str, image_size: int, folder: str) -> None:
    """Write ``image.npy``, an image as the encoder's input: float32 ``[1, 3, S, S]``."""
    bgr = as_bgr(image)
    geometry = ImageGeometry.of(bgr.shape[0], bgr.shape[1], image_size)
    np.save(Path(folder) / "image.npy", normalised_input(bgr, geometry, IMAGENET))


def write_plain_encoder(source: str, image: str, folder: str) -> None:
    """Write ``encoder.onnx``, the plain export of the reference package's image encoder, and ``embedding.npy``."""
    sam, config = reference_of(source)
    reference_package(config).refuse(config, source)
    example = torch.from_numpy(np.load(image))
    with torch.no_grad():
        np.save(Path(folder) / "embedding.npy", sam.image_encoder(example).numpy())
    _export(
        sam.image_encoder,
        (example,),
        Path(folder) / "encoder.onnx",
        input_names=["image"],
        output_names=["image_embeddings"],
    )


def write_meta_decoder(source: str, folder: str) -> None:
    """Write ``decoder.onnx``, Meta's decoder with all four masks, and ``decoder_low_res.onnx``, which ends earlier.

    The second gives no masks at image size: it is the part to compare samedge's decoder with. The exported class is
    mobile_sam's, because that of segment-anything 1.0 freezes the crop of the traced image.
    """
    sam, config = reference_of(source)
    mobile_sam()
    decoder = import_module("mobile_sam.utils.onnx").SamOnnxModel(sam, return_single_mask=False)
    grid = config.encoder.grid
    size = float(config.encoder.image_size)
    example = (
        torch.zeros(1, config.decoder.dim, grid, grid),
        torch.full((1, 5, 2), size / 2),
        torch.ones(1, 5),
        torch.zeros(1, 1, 4 * grid, 4 * grid),
        torch.zeros(1),
        torch.tensor([size, size * 3 // 4]),
    )
    path = Path(folder) / "decoder.onnx"
    _export(
        decoder,
        example,
        path,
        input_names=list(DECODER_INPUTS),
        output_names=list(DECODER_OUTPUTS),
        dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
    )
    onnx.utils.extract_model(
        str(path), str(path.with_name("decoder_low_res.onnx")), list(DECODER_INPUTS[:-1]), list(DECODER_OUTPUTS[1:])
    )


def _export(module: Any, example: tuple[Any, ...], path: Path, **names: Any) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's warnings about itself and about constant sizes
        torch.onnx.export(module, example, str(path), dynamo=False, opset_version=OPSET, **names)
