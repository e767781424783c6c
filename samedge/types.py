"""Types shared by all stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

Precision: TypeAlias = Literal["fp32", "fp16", "int8", "fp8"]
IOScheme: TypeAlias = Literal["native", "meta", "samexporter", "osam"]
EncoderForm: TypeAlias = Literal["chunked", "mask", "concat"]
"""Layout of the global attention in SAM's encoder: for CPUs, for GPUs, for GPUs with little memory."""
Verdict: TypeAlias = Literal["passed", "failed", "unchecked"]

Array: TypeAlias = NDArray[Any]
FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int32]
BoolArray: TypeAlias = NDArray[np.bool_]
ImageArray: TypeAlias = NDArray[np.uint8]

Progress: TypeAlias = Callable[[str, float], None]
"""Called with a description of the current step and the completed share of the whole, 0..1."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of one input or output of a graph; each axis is a size, or the name of a free axis."""

    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(str(axis) for axis in self.shape)}]"


class Closing:
    """A context manager that calls `close` on exit."""

    def close(self) -> None:
        """Release the resources. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
