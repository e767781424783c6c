"""Memory exchange with torch, CuPy, JAX and other libraries by DLPack, without copies.

A capsule keeps its owner alive until the consuming library releases it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Protocol

import numpy as np

from samedge.errors import TensorMismatchError

CPU: Final = 1
CUDA: Final = 2

_KINDS: Final = {"i": 0, "u": 1, "f": 2, "b": 6}
_FRESH: Final = b"dltensor"  # the consumer renames the capsule when it claims the memory
_USED: Final = b"used_dltensor"


class Exporter(Protocol):
    """An array of another library."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True, eq=False)
class ImportedArray:
    """An array in another library's memory.

    Attributes:
        address: Start address.
        shape: Shape of the array.
        dtype: dtype of the array.
        release: Releases the memory; to be called once.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    release: Callable[[], None]


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_kept: Final[dict[int, tuple[Any, ...]]] = {}


def _release(managed: int) -> None:
    # No lock: this may interrupt anything, including the other use of this dictionary, whose operations are atomic.
    _kept.pop(managed, None)


def _capsule_ended(capsule: int) -> None:
    """Release the memory of an unclaimed capsule."""
    if _is_valid(capsule, _FRESH):
        _release(_pointer(capsule, _FRESH))


_CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_RELEASE: Final = _CALLBACK(_release)
_CAPSULE_ENDED: Final = _CALLBACK(_capsule_ended)


_rename: Any = ctypes.pythonapi.PyCapsule_SetName
_rename.restype = ctypes.c_int
_rename.argtypes = (ctypes.py_object, ctypes.c_char_p)
_new: Any = ctypes.pythonapi.PyCapsule_New
_new.restype = ctypes.py_object
_new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_is_valid: Any = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype = ctypes.c_int
_is_valid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_pointer: Any = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)


def capsule(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], *, device: tuple[int, int], owner: object
) -> Any:
    """Return a DLPack capsule over C-contiguous memory.

    Args:
        address: Start of the memory.
        shape: Shape of the array.
        dtype: dtype of the array.
        device: Kind (`CPU` or `CUDA`) and index.
        owner: Kept alive until the memory is no longer used.

    Raises:
        TensorMismatchError: DLPack does not support the dtype.
    """
    if dtype.kind not in _KINDS:
        raise TensorMismatchError(f"{dtype} is not supported by DLPack", cure="Convert it first, such as to float32")
    sizes = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    managed = _Managed()
    managed.tensor.data = address
    managed.tensor.device = _Device(*device)
    managed.tensor.ndim = len(shape)
    managed.tensor.dtype = _Type(_KINDS[dtype.kind], dtype.itemsize * 8, 1)
    managed.tensor.shape = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
    managed.deleter = ctypes.cast(_RELEASE, ctypes.c_void_p).value
    at = ctypes.addressof(managed)
    _kept[at] = (managed, sizes, owner)
    return _new(at, _FRESH, ctypes.cast(_CAPSULE_ENDED, ctypes.c_void_p))


def import_array(exporter: Exporter, *, stream: int | None = None) -> ImportedArray:
    """Import an array from another library.

    Args:
        exporter: The array.
        stream: Stream whose later work must wait until the array is complete; None for the library's default.

    Raises:
        TensorMismatchError: Its dtype has no numpy equivalent, or it is not contiguous.
    """
    lent = exporter.__dlpack__() if stream is None else exporter.__dlpack__(stream=stream)
    at = _pointer(id(lent), _FRESH)
    managed = _Managed.from_address(at)
    tensor = managed.tensor
    rank = int(tensor.ndim)
    shape = tuple(int(tensor.shape[axis]) for axis in range(rank))
    dtype = _dtype(tensor.dtype)
    if tensor.strides and prod(shape) > 1:
        strides = tuple(int(tensor.strides[axis]) for axis in range(rank))
        want = tuple(prod(shape[axis + 1 :]) for axis in range(rank))
        if any(have != step and size > 1 for have, step, size in zip(strides, want, shape, strict=True)):
            # The capsule was not renamed, so it frees itself.
            raise TensorMismatchError("the array is not contiguous", cure="Call its contiguous()")
    _rename(lent, _USED)
    deleter = _CALLBACK(managed.deleter) if managed.deleter else None

    def release() -> None:
        if deleter is not None:
            deleter(at)

    return ImportedArray(int(tensor.data or 0) + int(tensor.byte_offset), shape, dtype, release)


def _dtype(kind: _Type) -> np.dtype[Any]:
    letter = next((letter for letter, code in _KINDS.items() if code == kind.code), None)
    if letter is None or kind.lanes != 1 or kind.bits % 8:
        raise TensorMismatchError(
            f"DLPack type {kind.code} with {kind.bits} bits has no numpy dtype",
            cure="Convert it first, such as to float32",
        )
    return np.dtype(f"{letter}{kind.bits // 8}")
