"""Memory handed to other libraries by DLPack, without a copy: what torch, CuPy and JAX take with ``from_dlpack``.

The capsule keeps an owner alive until the library that took it lets go.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np

from samedge.errors import TensorMismatchError

CPU: Final = 1
CUDA: Final = 2

_KINDS: Final = {"i": 0, "u": 1, "f": 2, "b": 6}
_FRESH: Final = b"dltensor"  # the consumer renames the capsule when it takes the memory


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
    """Returns a DLPack capsule over C-contiguous memory.

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
