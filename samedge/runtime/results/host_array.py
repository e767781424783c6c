"""Arrays with the methods that programs written for Ultralytics call on tensors: numpy's, on the host, without torch.

`HostArray` is a view of an array: nothing is copied, and everything that numpy does with the array it does with this.
"""

from __future__ import annotations

import builtins
from typing import Any, Final, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray
from typing_extensions import Self

from samedge.errors import UsageError
from samedge.types import Array

DType_co = TypeVar("DType_co", bound=np.dtype[Any], covariant=True)

_DEVICES: Final = ("cpu", "cuda", "mps", "xpu", "npu")
_OPTIONS: Final = ("non_blocking", "copy", "memory_format")


class HostArrays:
    """Base of holders of numpy arrays, which `cpu`, `numpy`, `cuda` and `to` return unchanged."""

    def to(self, *_: object, **__: object) -> Self:
        """Return the object itself: results are numpy arrays on the host."""
        return self

    cpu = numpy = cuda = to


class _Transfers:
    """The methods of tensors that arrays and single numbers share; `cpu`, `cuda` and `detach` return the object."""

    def cpu(self, *_: object, **__: object) -> Self:
        """Return the object itself: it is on the host."""
        return self

    cuda = detach = contiguous = cpu

    def numpy(self) -> Array:
        """Return a plain numpy array of the same memory."""
        return np.asarray(self).view(np.ndarray)

    def to(self, *targets: object, **options: object) -> Any:
        """Return the object itself, or converted to a dtype: "cpu", "cuda:0", numpy's or torch's dtypes are accepted.

        Raises:
            UsageError: It is neither a device nor a dtype.
        """
        named = [value for name, value in options.items() if name not in _OPTIONS]
        for target in (*targets, *named):
            dtype = _dtype(target)
            if dtype is not None:
                return self._cast(dtype)
        return self

    def _cast(self, dtype: DTypeLike) -> Any:
        return np.asarray(self).astype(dtype).view(HostArray)[()]

    def int(self) -> Any:
        """Return the values as int32, without their fractions."""
        return self._cast(np.int32)

    def long(self) -> Any:
        """Return the values as int64, without their fractions."""
        return self._cast(np.int64)

    def float(self) -> Any:
        """Return the values as float32."""
        return self._cast(np.float32)

    def double(self) -> Any:
        """Return the values as float64."""
        return self._cast(np.float64)

    def half(self) -> Any:
        """Return the values as float16."""
        return self._cast(np.float16)

    def bool(self) -> Any:
        """Return the values as booleans: True for those other than 0."""
        return self._cast(np.bool_)

    def byte(self) -> Any:
        """Return the values as uint8."""
        return self._cast(np.uint8)

    def numel(self) -> builtins.int:
        """Return the number of values."""
        return builtins.int(np.size(np.asarray(self)))

    def dim(self) -> builtins.int:
        """Return the number of axes."""
        return np.asarray(self).ndim


# numpy looks for its own type in the first base.
class HostFloat32(np.float32, _Transfers):
    """A float32 with the methods of tensors."""


class HostInt32(np.int32, _Transfers):
    """An int32 with the methods of tensors."""


class HostInt64(np.int64, _Transfers):
    """An int64 with the methods of tensors."""


_SCALARS: Final[dict[Any, Any]] = {np.float32: HostFloat32, np.int32: HostInt32, np.int64: HostInt64}


class HostArray(_Transfers, np.ndarray[tuple[Any, ...], DType_co]):
    """A numpy array with the methods of tensors; one of a single value converts to a number, whatever its shape."""

    def __getitem__(self, key: Any) -> Any:
        """Return a part of the array as `HostArray`, or one number."""
        return _with_methods(super().__getitem__(key))

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: builtins.bool = False) -> Any:
        """Return results of numpy's functions as `HostArray`, single ones as numbers."""
        return _with_methods(array.view(np.ndarray)[()]) if array.ndim == 0 else array.view(HostArray)

    def __int__(self) -> builtins.int:
        """Return the only value as a whole number; raise TypeError for several."""
        return builtins.int(self._only())

    def __float__(self) -> builtins.float:
        """Return the only value as a float; raise TypeError for several."""
        return builtins.float(self._only())

    def _only(self) -> Any:
        if self.size != 1:
            raise TypeError(f"only arrays of one value convert to a number; this one has {self.size}")
        return self.item()

    def clone(self) -> Self:
        """Return a copy."""
        return self.copy()

    def unsqueeze(self, dim: builtins.int) -> Any:
        """Return a view with a new axis of size 1."""
        return np.expand_dims(self, dim)

    def permute(self, *dims: builtins.int) -> Any:
        """Return a view with the axes in another order."""
        return self.transpose(*dims)


HostFloats: TypeAlias = "HostArray[np.dtype[np.float32]]"
HostBools: TypeAlias = "HostArray[np.dtype[np.bool_]]"


def host_floats(array: NDArray[np.float32]) -> HostFloats:
    """Return a view of a float32 array with the methods of tensors."""
    return array.view(HostArray)


def host_bools(array: NDArray[np.bool_]) -> HostBools:
    """Return a view of an array of booleans with the methods of tensors."""
    return array.view(HostArray)


def _with_methods(value: Any) -> Any:
    known = _SCALARS.get(type(value))
    return value if known is None else known(value)


def _dtype(target: object) -> np.dtype[Any] | None:
    """Return the dtype that `target` names; None for a device, a flag or nothing."""
    if target is None or isinstance(target, (bool, int)):
        return None
    if isinstance(target, np.ndarray):
        return np.dtype(target.dtype)
    name = str(target)
    if name.split(":", maxsplit=1)[0] in _DEVICES:
        return None
    try:
        if name.startswith("torch."):  # numpy has the same names
            return np.dtype(name.removeprefix("torch."))
        return np.dtype(cast("type", target))
    except TypeError as error:
        raise UsageError(
            f"{name!r} is neither a device nor a dtype", cure="Give 'cpu' or a dtype such as numpy.float32"
        ) from error
