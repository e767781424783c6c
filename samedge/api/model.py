"""`CallableModel`: the attributes and methods that `SAM`, `YOLO` and `FastSAM` share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from typing_extensions import Self

from samedge.api.keywords import device_name, keywords_in_use
from samedge.api.output import Runs
from samedge.bundle.manifest import ModelRecord
from samedge.errors import UsageError
from samedge.runtime.image.read import Frame, ImageSource
from samedge.runtime.results.results import Results


class _Opened(Protocol):
    @property
    def device(self) -> str: ...

    def close(self) -> None: ...


OpenedModel = TypeVar("OpenedModel", bound=_Opened)


class CallableModel(Generic[OpenedModel]):
    """A model that opens on first use.

    Attributes:
        overrides: Keywords of every call that does not give them itself, beside "model" and "task".
    """

    family: ClassVar[Literal["sam", "yolo"]]

    def __init__(self, model: str, task: str | None, device: object) -> None:
        self.model = model
        self.overrides: dict[str, Any] = {"model": model, "task": task}
        self._device = device_name(device)
        self._predictor: OpenedModel | None = None
        self._runs = Runs(lambda: self.task)

    @property
    def predictor(self) -> OpenedModel:
        """The model's predictor, opened on first use."""
        raise NotImplementedError

    @property
    def task(self) -> str:
        """The model's task: "detect" or "segment"."""
        raise NotImplementedError

    @property
    def device(self) -> str:
        """Device actually used, such as "cpu" or "cuda:0"."""
        return self.predictor.device

    def to(self, device: object) -> Self:
        """Move the model to a device, such as "cpu", "cuda:1" or 0, and return it.

        Raises:
            UsageError: Several devices are named.
        """
        name = device_name(device)
        if name is not None and name != self._device:
            if self._predictor is not None and self._predictor.device != name:
                self.close()
            self._device = name
        return self

    def fuse(self) -> Self:
        """Return the model itself: its layers were fused when it was exported."""
        return self

    def record(self) -> ModelRecord:
        """Return the model's record."""
        raise NotImplementedError

    def info(self, detailed: bool = False, verbose: bool = True) -> tuple[int, int, int, float]:
        """Return (layers, parameters, gradients, GFLOPs for one image); gradients are always 0.

        Args:
            detailed: Also print a SAM decoder's GFLOPs, the licence and the checkpoint.
            verbose: Print a one-line summary.
        """
        record = self.record()
        if verbose:
            line = (
                f"{record.name} summary: {record.layers:,} layers, {record.parameters:,} parameters, 0 gradients, "
                f"{record.encoder_gflops:.1f} GFLOPs"
            )
            if detailed:
                decoder = f"\ndecoder: {record.decoder_gflops:.2f} GFLOPs per prompt" if record.decoder_gflops else ""
                line += (
                    f"{decoder}\nlicence: {record.licence}"
                    f"\ncheckpoint: {record.checkpoint} (SHA-256 {record.checkpoint_sha256})"
                )
            sys.stdout.write(line + "\n")
        return record.layers, record.parameters, 0, record.encoder_gflops

    def close(self) -> None:
        """Free the graphs; the next call opens them again."""
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None

    def _in_use(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keywords of a call that the model uses, with its overrides; the device is set already."""
        own = {name: value for name, value in self.overrides.items() if name not in ("model", "task")}
        given = {**own, **keywords}
        task = self.task if given.get("task") is not None else ""
        used = keywords_in_use(given, self.family, task)
        self.to(used.pop("device", None))
        return used


def placed(found: Results, image: ImageSource) -> Results:
    """Return the results of an image, with its position if it is a frame of a video."""
    if isinstance(image, Frame):
        found.frame, found.frame_rate = image.number, image.rate
    return found


def check_imgsz(imgsz: object, size: int) -> None:
    """Check that `imgsz`, if it is given, is the side of a SAM's input, px.

    Raises:
        UsageError: It is not.
    """
    sides = {*imgsz} if isinstance(imgsz, (list, tuple)) else {imgsz}
    if sides not in ({None}, {size}):
        raise UsageError(
            f"imgsz is {imgsz}, but the model's input is {size}", cure=f"Leave it out, or give {size}", where=None
        )
