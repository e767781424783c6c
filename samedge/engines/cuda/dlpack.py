"""Memory handed to other libraries by DLPack and taken from them, without a copy: torch's, CuPy's and JAX's.

The capsule keeps an owner alive until the library that took it lets go.
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
_FRESH: Final = b"dltensor"  # the consumer renames the capsule when it takes the memory
_USED: Final = b"used_dltensor"


class Exporter(Protocol):
    """An array of another library."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Memory of another library.

    Attributes:
        address: Where it begins.
        shape: Of the array.
        dtype: Of the array.
        release: Gives it back; to be called once.
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


def _let_go(managed: int) -> None:
    # No lock: this may run in the middle of anything, also of the other use of this dictionary, whose steps are whole.
    _kept.pop(managed, None)


def _capsule_ended(capsule: int) -> None:
    """A capsule that nobody took has to let go itself."""
    if _is_valid(capsule, _FRESH):
        _let_go(_pointer(capsule, _FRESH))


_CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_LET_GO: Final = _CALLBACK(_let_go)
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
        address: Where the memory begins.
        shape: Of the array.
        dtype: Of the array.
        device: Kind (`CPU` or `CUDA`) and number.
        owner: Kept alive until the memory is not used any more.

    Raises:
        TensorMismatchError: DLPack has no such dtype.
    """
    if dtype.kind not in _KINDS:
        raise TensorMismatchError(f"{dtype} cannot be handed over by DLPack", cure="Convert it first")
    sizes = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    managed = _Managed()
    managed.tensor.data = address
    managed.tensor.device = _Device(*device)
    managed.tensor.ndim = len(shape)
    managed.tensor.dtype = _Type(_KINDS[dtype.kind], dtype.itemsize * 8, 1)
    managed.tensor.shape = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
    managed.deleter = ctypes.cast(_LET_GO, ctypes.c_void_p).value
    at = ctypes.addressof(managed)
    _kept[at] = (managed, sizes, owner)
    return _new(at, _FRESH, ctypes.cast(_CAPSULE_ENDED, ctypes.c_void_p))


def take(exporter: Exporter, *, stream: int | None = None) -> Taken:
    """Take an array's memory from another library.

    Args:
        exporter: The array.
        stream: What is given to this stream from now on begins after the array is complete; None for the library's
            default.

    Raises:
        TensorMismatchError: Its dtype has no numpy dtype, or its elements do not lie one after the other.
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
            # Nobody renamed the capsule, so that it frees itself.
            raise TensorMismatchError(
                "the array's elements do not lie one after the other", cure="Use its contiguous()"
            )
    _rename(lent, _USED)
    deleter = _CALLBACK(managed.deleter) if managed.deleter else None

    def release() -> None:
        if deleter is not None:
            deleter(at)

    return Taken(int(tensor.data or 0) + int(tensor.byte_offset), shape, dtype, release)


def _dtype(kind: _Type) -> np.dtype[Any]:
    letter = next((letter for letter, code in _KINDS.items() if code == kind.code), None)
    if letter is None or kind.lanes != 1 or kind.bits % 8:
        raise TensorMismatchError(
            f"an array of DLPack's type {kind.code} with {kind.bits} bits has no numpy dtype", cure="Convert it first"
        )
    return np.dtype(f"{letter}{kind.bits // 8}")
