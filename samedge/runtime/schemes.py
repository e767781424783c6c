"""The two graphs of a bundle, the same to call whatever names and shapes their I/O scheme gives them.

``native`` takes many prompts at once. ``meta`` and ``samexporter`` take one prompt, want labels as floats, and resize
masks inside; they are run prompt by prompt, and what they return at low resolution is used, as with ``native``. Knows
names and shapes of inputs, and nothing of files or image formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from samedge.engines.protocol import Engine
from samedge.errors import BundleError, IntegrityError
from samedge.runtime.geometry import ImageGeometry, normalised_input, raw_input
from samedge.runtime.manifest import GraphRecord, Manifest, TensorRecord
from samedge.runtime.prompts import PromptGroup
from samedge.types import Array, FloatArray, ImageArray, IOScheme, TensorSpec

_ENCODER_INPUT: Final[dict[IOScheme, str]] = {"native": "image", "meta": "image", "samexporter": "input_image"}
_PROMPT_INPUTS: Final = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
_DECODER_INPUTS: Final[dict[IOScheme, tuple[str, ...]]] = {
    "native": _PROMPT_INPUTS,
    "meta": (*_PROMPT_INPUTS, "orig_im_size"),
    "samexporter": (*_PROMPT_INPUTS, "orig_im_size"),
}
MASK_TOKENS: Final = 4
_DECODER_OUTPUTS: Final = ("low_res_masks", "iou_predictions")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the decoder returns for B prompts.

    Attributes:
        low_res: float32 ``[B, 4, side, side]`` logits, of token 0 first.
        scores: float32 ``[B, 4]`` predicted IoUs.
    """

    low_res: FloatArray
    scores: FloatArray


class SamGraphs:
    """Encoder and decoder of one bundle.

    Args:
        manifest: Of the bundle.
        encoder: The opened encoder graph.
        decoder: The opened graph of role "decoder", which returns four masks.

    Raises:
        BundleError: The graphs do not have the inputs and outputs of the manifest's I/O scheme.
    """

    def __init__(self, manifest: Manifest, encoder: Engine, decoder: Engine) -> None:
        self._manifest = manifest
        self.encoder = encoder
        self.decoder = decoder
        io = manifest.io
        _require_names(encoder, encoder.inputs, (_ENCODER_INPUT[io],), io)
        _require_names(encoder, encoder.outputs, ("image_embeddings",), io)
        _require_names(decoder, decoder.inputs, _DECODER_INPUTS[io], io)
        missing = [name for name in _DECODER_OUTPUTS if name not in decoder.outputs]
        if missing:
            raise _wrong_scheme(decoder, f"{missing[0]!r} is missing", io)
        tokens = decoder.outputs["low_res_masks"].shape[1:2]
        if isinstance(tokens[0], int) and tokens[0] != MASK_TOKENS:
            raise _wrong_scheme(decoder, f"it returns {tokens[0]} masks, and {MASK_TOKENS} are needed", io)
        side = decoder.inputs["mask_input"].shape[-1]
        self.mask_side = side if isinstance(side, int) else manifest.input.image_size // 4

    def prepare(self, bgr: ImageArray, geometry: ImageGeometry) -> FloatArray:
        """Returns the encoder's input for an image.

        Args:
            bgr: uint8 ``(H, W, 3)``.
            geometry: Of this image.
        """
        record = self._manifest.input
        if self._manifest.io == "samexporter":
            return raw_input(bgr, geometry)
        return normalised_input(bgr, geometry, record.pixel_mean, record.pixel_std)

    def run_encoder(self, prepared: FloatArray) -> FloatArray:
        """Returns the image embedding of what `prepare` returned: float32 ``[1, C, g, g]``."""
        name = _ENCODER_INPUT[self._manifest.io]
        outputs = self.encoder.run(_as_specified(self.encoder, {name: prepared}), ["image_embeddings"])
        return outputs["image_embeddings"].astype(np.float32, copy=False)

    def decode(self, embedding: FloatArray, group: PromptGroup) -> Decoded:
        """Returns all four masks of every prompt of the group.

        Args:
            embedding: float32 ``[1, C, g, g]``.
            group: As many prompts as the decoder should take in one call.
        """
        if self._manifest.io == "native":
            return self._decode(embedding, group, {})
        # These graphs also draw the masks at the size of the image; nobody looks at them, and 1 x 1 px costs the least.
        size: dict[str, Array] = {"orig_im_size": np.ones(2, np.float32)}
        parts = [self._decode(embedding, prompt, size) for prompt in group.chunks(1)]
        return Decoded(
            np.concatenate([part.low_res for part in parts]), np.concatenate([part.scores for part in parts])
        )

    def _decode(self, embedding: FloatArray, group: PromptGroup, more: dict[str, Array]) -> Decoded:
        side = self.mask_side
        masks = np.zeros((len(group), side, side), np.float32) if group.masks is None else group.masks
        feeds: dict[str, Array] = {
            "image_embeddings": embedding,
            "point_coords": group.coords,
            "point_labels": group.labels,
            "mask_input": masks[:, None],
            "has_mask_input": group.has_mask,
            **more,
        }
        outputs = self.decoder.run(_as_specified(self.decoder, feeds), list(_DECODER_OUTPUTS))
        return Decoded(
            outputs["low_res_masks"].astype(np.float32, copy=False),
            outputs["iou_predictions"].astype(np.float32, copy=False),
        )


def _as_specified(engine: Engine, feeds: dict[str, Array]) -> dict[str, Array]:
    """Casts each feed to the dtype that the graph takes: labels are floats in some schemes."""
    return {name: array.astype(engine.inputs[name].dtype, copy=False) for name, array in feeds.items()}


def _require_names(engine: Engine, have: Iterable[str], want: tuple[str, ...], io: IOScheme) -> None:
    names = set(have)
    if names != set(want):
        odd = sorted(names ^ set(want))[0]
        raise _wrong_scheme(engine, f"{odd!r} is {'unexpected' if odd in names else 'missing'}", io)


def _wrong_scheme(engine: Engine, what: str, io: IOScheme) -> BundleError:
    return BundleError(
        f"the graph does not have the names of the I/O scheme {io!r}: {what}",
        where=engine.name,
        cure="Export the checkpoint again",
    )


def check_graph(record: GraphRecord, engine: Engine) -> None:
    """Compares what a graph really takes and gives with what the manifest says.

    Raises:
        IntegrityError: A name, dtype or shape differs.
    """
    _check_ports("input", record.inputs, engine.inputs, engine.name)
    _check_ports("output", record.outputs, engine.outputs, engine.name)


def _check_ports(kind: str, said: Mapping[str, TensorRecord], real: Mapping[str, TensorSpec], where: str) -> None:
    cure = "Copy the bundle again, or export the checkpoint again"
    for name in sorted(said.keys() | real.keys()):
        if name not in real or name not in said:
            owner, other = ("manifest", "graph") if name in said else ("graph", "manifest")
            raise IntegrityError(f"the {owner} has the {kind} {name!r} and the {other} has not", where=where, cure=cure)
        have, want = real[name], said[name]
        # A size that one of them leaves free is not a contradiction: backends infer more or less of a graph.
        differs = have.dtype.name != want.dtype or len(have.shape) != len(want.shape)
        sizes = zip(have.shape, want.shape, strict=False)
        if differs or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes):
            axes = ", ".join(map(str, want.shape))
            raise IntegrityError(
                f"the {kind} {name!r} is {have} in the graph and {want.dtype}[{axes}] in the manifest",
                where=where,
                cure=cure,
            )
