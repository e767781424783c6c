"""The fp32 torch model's outputs on the probe set, stored in the bundle for comparison on a board without torch.

The probe images and prompts are redrawn from their seeds; their digest is stored. Of the outputs are stored: the masks
at image size, one bit per pixel; the predicted IoUs; and the large embeddings and low-resolution logits on a coarse
grid. A few hundred kB in total.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import GraphRole
from samedge.errors import BundleError
from samedge.parity.compare import Decoded, ProbeRunner
from samedge.parity.probes import Probe, ProbePrompt, probe_set
from samedge.storage.files import storage_errors
from samedge.types import Array, BoolArray, FloatArray

PROBES_NAME: Final = "probes.npz"
NO_ANSWERS: Final = "the bundle keeps no answers of its checkpoint (it was not checked either)"

_FORMAT: Final = 2
_ORDER_OF_PILLOW: Final = 1
"""Format of answers to images that were resized in the order of the Pillow that exported them, see `Probe`."""
_EMBEDDING_SIDE: Final = 8
_LOGITS_SIDE: Final = 16
"""Rows and columns of the grid on which embeddings and logits are stored."""


def on_grid(values: FloatArray, side: int) -> FloatArray:
    """Return evenly spaced rows and columns of ``[..., H, W]``: about ``side`` of each.

    NaN if any value is not finite, so that an overflow between grid points is not hidden.
    """
    step = max(1, values.shape[-1] // side)
    picked = values[..., step // 2 :: step, step // 2 :: step]
    return picked if np.isfinite(values).all() else np.full_like(picked, np.nan)


class RecordedReference:
    """A reference that records its outputs.

    Args:
        reference: The recorded reference.
        probes: The probe set that it will be run on, in this order, once.
    """

    def __init__(self, reference: ProbeRunner, probes: Sequence[Probe]) -> None:
        self._reference = reference
        self._digest = probes_digest(probes)
        self._embeddings: list[FloatArray] = []
        self._ious: list[FloatArray] = []
        self._logits: list[FloatArray] = []
        self._masks: list[list[Array]] = []

    def embed(self, probe: Probe) -> FloatArray:
        """Return and record the reference's embedding."""
        embedding = self._reference.embed(probe)
        self._embeddings.append(on_grid(embedding[0], _EMBEDDING_SIDE))
        self._masks.append([])
        return embedding

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Return the reference's outputs, and record the one with all masks."""
        decoded = self._reference.decode(prompt)
        whole = next(answer for role, answer in decoded.items() if role != "decoder_single")
        self._ious.append(whole.iou_predictions)
        self._logits.append(on_grid(whole.low_res_masks, _LOGITS_SIDE))
        self._masks[-1].append(np.packbits(whole.masks))
        return decoded

    def save(self, folder: Path) -> None:
        """Write the recorded outputs into a bundle's folder.

        Raises:
            StorageError: It cannot be written.
        """
        kept: dict[str, Any] = {
            "format": np.array(_FORMAT),
            "digest": np.array(self._digest),
            "embeddings": np.stack(self._embeddings),
            "ious": np.stack(self._ious),
            "logits": np.stack(self._logits),
            **{f"masks{index}": np.stack(masks) for index, masks in enumerate(self._masks)},
        }
        packed = io.BytesIO()
        np.savez_compressed(packed, **kept)
        path = folder / PROBES_NAME
        with storage_errors(path):
            path.write_bytes(packed.getvalue())


class StoredReference:
    """The stored reference of a bundle.

    It returns embeddings and logits on the coarse grid: compare it with a `GridRunner`.

    Args:
        bundle: The bundle.
        roles: The decoder roles of the candidate.
        probes: The probes of the export; None for a SAM's probe set.
        as_pillow_13: As in `probe_set`.

    Attributes:
        probes: The probe set to run, in order.
        may_be_of_pillow_13: The answers do not tell in which order the tall image was resized.

    Raises:
        BundleError: The bundle has no reference, or it is damaged, or uses other probes than this samedge.
        StorageError: It cannot be read.
    """

    def __init__(
        self,
        bundle: Bundle,
        roles: tuple[GraphRole, ...],
        probes: tuple[Probe, ...] | None = None,
        *,
        as_pillow_13: bool = False,
    ) -> None:
        record = bundle.manifest.probes
        if record is None:
            raise BundleError(
                "the bundle has no stored reference to compare with",
                where=bundle.path,
                cure="Export the checkpoint again, without --no-check",
            )
        self._roles = roles
        self._kept = _read(bundle.folder / record.file)
        size = bundle.manifest.input.image_size
        self.may_be_of_pillow_13 = int(self._kept["format"]) == _ORDER_OF_PILLOW
        self.probes = probes or probe_set(size, embedding_grid(bundle), as_pillow_13=as_pillow_13)
        if str(self._kept["digest"]) != probes_digest(self.probes):
            raise BundleError(
                "the probe images of this bundle differ from those of this samedge",
                where=bundle.path,
                cure="Use the samedge version that exported it, or export the checkpoint again",
            )
        self._at = -1

    def embed(self, probe: Probe) -> FloatArray:
        """Return the stored part of the next probe's embedding, float32 ``[1, C, n, n]``."""
        self._at += 1
        self._prompt = -1
        self._shape = probe.image.shape[:2]
        embedding: FloatArray = self._kept["embeddings"][self._at][None]
        return embedding

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Return the stored part of the next prompt's output, for each role."""
        self._prompt += 1
        index = self._at * len(self.probes[0].prompts) + self._prompt
        ious, logits = self._kept["ious"][index], self._kept["logits"][index]
        bits = np.unpackbits(self._kept[f"masks{self._at}"][self._prompt], count=len(ious) * int(np.prod(self._shape)))
        masks: BoolArray = bits.reshape(len(ious), *self._shape).astype(np.bool_)
        whole = Decoded(logits, ious, masks)
        return {role: _single(whole, prompt) if role == "decoder_single" else whole for role in self._roles}


class GridRunner:
    """A candidate sampled on the grid of a `StoredReference`.

    Args:
        candidate: The sampled candidate.
    """

    def __init__(self, candidate: ProbeRunner) -> None:
        self._candidate = candidate

    def embed(self, probe: Probe) -> FloatArray:
        """Return the candidate's embedding on the coarse grid."""
        return on_grid(self._candidate.embed(probe), _EMBEDDING_SIDE)

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Return the candidate's outputs, logits on the coarse grid; all IoUs are NaN if one is."""
        decoded: dict[GraphRole, Decoded] = {}
        for role, answer in self._candidate.decode(prompt).items():
            ious = answer.iou_predictions
            # Of several masks the one with the highest IoU is shown, and NaN makes that undefined.
            ious = ious if np.isfinite(ious).all() else np.full_like(ious, np.nan)
            decoded[role] = Decoded(on_grid(answer.low_res_masks, _LOGITS_SIDE), ious, answer.masks)
        return decoded


def probes_digest(probes: Sequence[Probe]) -> str:
    """Return one SHA-256 over the images and the prompts of a probe set."""
    digest = hashlib.sha256()
    for probe in probes:
        digest.update(probe.image.tobytes())
        for prompt in probe.prompts:
            # Prompts are computed: rounding in the last digit does not make another prompt.
            digest.update(np.round(prompt.coords, 2).tobytes() + prompt.labels.tobytes())
    return digest.hexdigest()


def embedding_grid(bundle: Bundle) -> int:
    """Return the side of the image embedding of a bundle's model.

    Raises:
        BundleError: It has no encoder that tells.
    """
    shape = bundle.manifest.graph("encoder").outputs["image_embeddings"].shape
    side = shape[-1]
    if not isinstance(side, int):
        raise BundleError(
            "the encoder does not fix the size of its embedding", where=bundle.path, cure="Export the checkpoint again"
        )
    return side


def _single(whole: Decoded, prompt: ProbePrompt) -> Decoded:
    """Return the mask that Meta's single-mask graph picks: token 0 for more than two points, else the best other."""
    bonus = np.zeros(len(whole.iou_predictions), np.float32)
    bonus[0] = (len(prompt.coords) - 2.5) * 1000
    best = int(np.argmax(whole.iou_predictions + bonus))
    part = slice(best, best + 1)
    return Decoded(whole.low_res_masks[part], whole.iou_predictions[part], whole.masks[part])


def _read(path: Path) -> Mapping[str, Any]:
    cure = "Copy the bundle again, or export the checkpoint again"
    try:
        with storage_errors(path, "read"), np.load(path, allow_pickle=False) as kept:
            values = {name: kept[name] for name in kept.files}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"the stored reference is damaged ({error})", where=path, cure=cure) from error
    if values.get("format") not in (_ORDER_OF_PILLOW, _FORMAT):
        raise BundleError(
            "the stored reference is of another samedge", where=path, cure="Update samedge, or export again"
        )
    return values
