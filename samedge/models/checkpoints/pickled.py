"""Pickles read as data: every class in them becomes an inert stand-in, and nothing of theirs is ever run.

What a name in a pickle may become is in the tables below. Names are never looked up: containers are rebuilt as plain
ones, tensors from the bytes of the file, and objects of foreign packages are a `StandIn` that only remembers what it
was given. Other functions of Python, torch and numpy end the reading. Where the numbers lie in the file is the business
of `samedge.models.checkpoints.torch_files`.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeAlias, cast

import torch
from torch import Tensor

from samedge.errors import CheckpointError, UnsafeCheckpointError

MAX_STEPS: Final = 1 << 21
"""Instructions of the longest pickle that is read, and entries of all the containers that it copies."""

MAX_KINDS: Final = 1 << 12
"""Names in one pickle. A stand-in's class takes a few kilobytes."""

MAX_REPEATED: Final = 1 << 24
"""Numbers of the largest tensor that has fewer of its own, and repeats them."""

_MOST_AXES: Final = 64

_WIDE: Final = 1 << 64
_MAX_WIDE: Final = 8
"""Integers beyond 64 bits in one pickle. Any number of them can have one hash, and make a dictionary quadratic."""

_INERT: Final[Mapping[str, tuple[str, ...]]] = {
    "argparse": ("Namespace",),
    "builtins": ("object", "bool", "int", "float", "complex", "str", "bytes", "bytearray", "range", "xrange", "slice",
                 "long", "unicode", "Ellipsis"),
    "collections": ("ChainMap", "Counter", "UserDict", "deque"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "types": ("SimpleNamespace",),
    "ipaddress": ("IPv4Address", "IPv6Address"),
    "random": ("Random",),
    "typing": ("Any",),
    "uuid": ("UUID",),
    **dict.fromkeys(
        ("pathlib", "pathlib._local"),
        ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    ),
    "numpy": ("ndarray", "matrix", "bool_", "bool", "str_", "int8", "int16", "int32", "int64",
              "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"),
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), ("scalar",)),
    "numpy.random._pickle": ("__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"),
    "numpy.random._pcg64": ("PCG64", "PCG64DXSM"),
    "numpy.random._mt19937": ("MT19937",),
    "numpy.random._philox": ("Philox",),
    "numpy.random._sfc64": ("SFC64",),
    "numpy.random.bit_generator": ("SeedSequence", "__pyx_unpickle_SeedSequence"),
    "torch": ("device", "Tensor"),
    "torch.serialization": ("_get_layout",),
    "torch.torch_version": ("TorchVersion",),
}  # fmt: skip
"""Extras of training scripts beside the weights: options, paths, dates and figures. All become stand-ins."""

_INERT_ROOTS: Final = ("torch.nn.", "torch.optim.", "torch.amp.", "torch.cuda.amp.", "torch.utils.data.")
"""Packages of torch with objects that become stand-ins, as those of all packages do but of Python, torch and numpy."""

_GUARDED: Final = sys.stdlib_module_names | {"__builtin__", "copy_reg", "torch", "numpy"}
"""Packages in which a name that is in no table is a function, or a class that no checkpoint needs."""

_OLD_MODULES: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_DTYPES: Final = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
"""Numbers by the beginning of the name of their storage."""

_MORE_DTYPES: Final = (
    *("uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
)
"""Numbers without a storage of their own."""

_NUMPY_DTYPES: Final = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
"""Numbers of numpy's arrays that can be weights."""

_GET_AGAIN: Final = "Get the file again"

Numbers: TypeAlias = Callable[[str, int, int], "memoryview | bytearray | None"]
"""The bytes behind a storage, to be written to, from its name, its count of numbers, and bytes per number. They are not
fewer than both say, or it raises. None if the numbers are not wanted: tensors are then None as well."""


@dataclass(frozen=True, slots=True)
class Pickled:
    """Content of a pickle.

    Attributes:
        content: With a `StandIn` for every object, and CPU tensors of the file's own dtypes.
        kinds: Full names of all classes and functions that the pickle refers to.
    """

    content: object
    kinds: frozenset[str]


class StandIn:
    """In place of an object of a class that is not looked up.

    Attributes:
        kind: Full name of the class, such as "ultralytics.nn.tasks.SegmentationModel".
        attributes: What the pickle set on the object.
    """

    __slots__ = ("attributes",)
    kind: str = ""
    attributes: dict[str, Any]

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Take any arguments, as the class in the file may."""
        stand_in = super().__new__(cls)
        stand_in.attributes = {}
        return stand_in

    def __setstate__(self, state: object) -> None:
        """Keep attributes: a dictionary, or a pair of it and that of the slots."""
        for part in state if isinstance(state, tuple) else (state,):
            self.attributes.update(mapping(part))

    def __setitem__(self, key: object, value: object) -> None:
        """Take and forget what a subclass of dict or list holds."""

    def append(self, value: object) -> None:
        """Take and forget what a subclass of list holds."""

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class _Encoded(StandIn):
    """In place of text in a codec that is not looked up."""

    __slots__ = ()
    kind = "_codecs.encode"


class _NumpyDtype(StandIn):
    """In place of a dtype of numpy; its code is an attribute."""

    __slots__ = ()
    kind = "numpy.dtype"

    def __init__(self, code: object = "", *_: object, **__: object) -> None:
        self.attributes["code"] = code

    def __setstate__(self, state: object) -> None:
        """Keep the order of bytes, the second entry."""
        if isinstance(state, tuple) and len(state) > 1:
            self.attributes["order"] = state[1]


class _NumpyArray(StandIn):
    """In place of an array of numpy, with its bytes."""

    __slots__ = ()
    kind = "numpy.ndarray"

    def __setstate__(self, state: object) -> None:
        """Keep the shape, dtype, order of axes and bytes of numpy's own state."""
        if isinstance(state, tuple) and len(state) == 5:
            self.attributes.update(zip(("shape", "dtype", "fortran", "bytes"), state[1:], strict=True))


def as_tensor(value: object) -> Tensor | None:
    """Return a tensor of the file, or an array of numpy as one; None for anything else, and for arrays of other things.

    Args:
        value: From the content of a pickle.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, _NumpyArray):
        return None
    shape, dtype, data = (value.attributes.get(name) for name in ("shape", "dtype", "bytes"))
    if not isinstance(dtype, _NumpyDtype) or not isinstance(shape, tuple) or not isinstance(data, (bytes, bytearray)):
        return None
    kind = _NUMPY_DTYPES.get(str(dtype.attributes.get("code")))
    sizes = [side for side in shape if isinstance(side, int) and side >= 0]
    if kind is None or dtype.attributes.get("order", "<") not in ("<", "|", "=") or len(sizes) != len(shape):
        return None
    if len(sizes) > _MOST_AXES or len(data) != math.prod(sizes) * kind.itemsize:
        return None
    numbers = torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
    if value.attributes.get("fortran") is True:
        return numbers.reshape(sizes[::-1]).permute(*reversed(range(len(sizes)))).contiguous()
    return numbers.reshape(sizes)


class _Dictionary(dict[Any, Any]):
    """In place of an OrderedDict: no pickle can hide its methods behind attributes, nor set any."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Forget attributes, such as torch's ``_metadata``."""


class _Tensor(Tensor):
    """A tensor that no pickle can change: torch's own could be pointed anywhere, and grow."""

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("a pickle sets the state of a tensor")

    def __setitem__(self, *_: object) -> NoReturn:
        raise pickle.UnpicklingError("a pickle sets numbers of a tensor")

    def add(self, *_: object) -> NoReturn:  # type: ignore[override]
        """Refuse what the instruction for sets would call, at any size."""
        raise pickle.UnpicklingError("a pickle adds to a tensor")


class _Function:
    """A function of the few that a pickle may call. Its own class, so that no pickle can set anything on it."""

    __slots__ = ("_function",)
    _function: Callable[..., object]

    def __init__(self, function: Callable[..., object]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise pickle.UnpicklingError("a pickle sets attributes of a function")

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("a pickle sets the state of a function")


def unpickle(stream: io.BytesIO | mmap.mmap, where: Path, numbers: Numbers) -> Pickled:
    """Read the next pickle of a stream.

    Args:
        stream: Left behind the pickle.
        where: The file, for messages.
        numbers: Called for each storage.

    Raises:
        UnsafeCheckpointError: The pickle names a function or class that is not allowed; it was not looked up.
        CheckpointError: It asks for more memory than its bytes account for.
        Exception: Whatever a damaged pickle makes the unpickler stumble over.
    """
    start = stream.tell()
    _check_steps(stream, where)
    end = stream.tell()
    stream.seek(start)
    unpickler = _Unpickler(io.BytesIO(stream.read(end - start)), where, numbers)
    content = unpickler.load()
    return Pickled(content, frozenset(unpickler.kinds))


def _check_steps(stream: io.BytesIO | mmap.mmap, where: Path) -> None:
    """Refuse what the unpickler would act on before it asks for a name, and stop behind the pickle.

    Raises:
        UnsafeCheckpointError: The pickle refers to objects by number, which may be there already.
        CheckpointError: It asks for more places than it has bytes, or has too many instructions.
    """
    size, wide = min(len(stream) if isinstance(stream, mmap.mmap) else len(stream.getbuffer()), MAX_STEPS), 0
    for step, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", stream))):
        reason = None
        if opcode.name.startswith("EXT"):
            raise _unsafe(f"extension {argument}", where)
        if isinstance(argument, int) and not -_WIDE < argument < _WIDE:
            wide += 1
        if opcode.name.endswith("PUT") and int(argument or 0) > size:  # memory for so many would be taken at once
            reason = f"counts to {argument}"
        elif step == MAX_STEPS:
            reason = f"has more than {MAX_STEPS} instructions"
        elif wide > _MAX_WIDE:
            reason = "is full of integers of more than 64 bits"
        if reason is not None:
            raise CheckpointError(f"the pickle in this file {reason}", where=where, cure=_GET_AGAIN)


def _unsafe(name: str, where: Path) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"the file refers to {name[:200]}, which has no place in a checkpoint; nothing was run",
        where=where,
        cure="Do not load it where it could run. If you trust it, load it where it was made and save its weights "
        "alone: torch.save(model.state_dict(), path)",
        foreign=name,
    )


class _Unpickler(pickle.Unpickler):
    """Reads a pickle without looking anything up."""

    def __init__(self, stream: io.BytesIO, where: Path, numbers: Numbers) -> None:
        super().__init__(stream, encoding="utf-8")
        self.kinds: set[str] = set()
        self._where = where
        self._numbers = numbers
        self._storages: dict[str, Tensor] = {}
        self._copied = self._encoded = 0
        self._size = len(stream.getbuffer())
        dtypes = [*_DTYPES.values(), *(getattr(torch, name) for name in _MORE_DTYPES if hasattr(torch, name))]
        self._known: dict[str, object] = {
            **{str(dtype): dtype for dtype in dtypes},
            **{f"torch.{device}{name}Storage": dtype for name, dtype in _DTYPES.items() for device in ("", "cuda.")},
            **dict.fromkeys(("torch.UntypedStorage", "torch.storage.UntypedStorage"), torch.uint8),
            "numpy.dtype": _NumpyDtype,
        }
        functions: dict[str, Callable[..., object]] = {
            "_codecs.encode": self._encode,
            **{f"numpy.{core}.multiarray._reconstruct": lambda *_: _NumpyArray() for core in ("core", "_core")},
            **{f"numpy.{core}.numeric._frombuffer": _array_of_bytes for core in ("core", "_core")},
            "collections.OrderedDict": self._copier(_Dictionary),
            "collections.defaultdict": lambda *_: _Dictionary(),
            "builtins.dict": self._copier(_Dictionary),
            "builtins.list": self._copier(list),
            "builtins.set": self._copier(set),
            "builtins.frozenset": self._copier(frozenset),
            "builtins.tuple": self._copier(tuple),
            "torch.Size": self._copier(tuple),
            "copyreg._reconstructor": _reconstruct,
            "torch._utils._rebuild_tensor": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": _rebuild_tensor_of,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
        }
        self._known |= {name: _Function(function) for name, function in functions.items()}

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what stands for a name in the pickle.

        Raises:
            UnsafeCheckpointError: The name is not allowed.
            CheckpointError: It makes a tensor of a kind that is not read.
        """
        module = _OLD_MODULES.get(module, module)
        full = f"{module}.{name}"
        self.kinds.add(full)
        if full not in self._known:
            guarded = module.partition(".")[0] in _GUARDED and not full.startswith(_INERT_ROOTS)
            if guarded and name not in _INERT.get(module, ()):
                if full.startswith("torch._utils._rebuild_") or (module == "torch" and name.endswith("Storage")):
                    raise CheckpointError(
                        f"the file has tensors of a kind that is not read ({full[:200]}): quantised, sparse, or "
                        "without values",
                        where=self._where,
                        cure="Save plain weights: torch.save(model.state_dict(), path)",
                    )
                raise _unsafe(full, self._where)
            if len(self.kinds) > MAX_KINDS:
                raise pickle.UnpicklingError(f"a pickle of more than {MAX_KINDS} classes")
            self._known[full] = type(name, (StandIn,), {"kind": full, "__slots__": ()})
        return self._known[full]

    def persistent_load(self, pid: Any, /) -> object:
        """Return the numbers behind a tensor, 1-D, in the file's own dtype.

        Raises:
            CheckpointError: They are not there, or not as many as the file says.
        """
        if pid[0] == "module":  # old files keep the source of each class beside it
            return pid[1]
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError("a reference to something that is no storage")
        key = str(key)
        if key not in self._storages:
            buffer = self._numbers(key, count, dtype.itemsize)
            if buffer is None:
                return None
            numbers = torch.frombuffer(buffer, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            self._storages[key] = numbers.as_subclass(_Tensor)
        storage = self._storages[key]
        if storage.nbytes != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"the numbers {key!r} have two sizes")
        if storage.dtype != dtype:
            storage = storage.view(dtype)
        if view and view[0] is not None:  # of old files: a part of a storage, under a name of its own
            _, offset, size = view[0]
            return _rebuild_tensor(storage, offset, (size,), (1,))
        return storage

    def _encode(self, text: object, encoding: object = "", *_: object) -> object:
        """As the codec of the bytes in old pickles, and of no other, so long as the copies do not add up."""
        if not isinstance(text, str) or encoding != "latin1":
            return _Encoded()
        self._encoded += len(text)
        if self._encoded > self._size:
            raise pickle.UnpicklingError("a pickle that copies bytes without end")
        return text.encode("latin1")

    def _copier(self, kind: Callable[..., Any]) -> Callable[..., object]:
        """Return a function that makes a container of another, so long as the copies do not add up."""

        def copy(*entries: Any) -> object:
            self._copied += sum(len(part) for part in entries)
            if self._copied > MAX_STEPS:
                raise pickle.UnpicklingError("a pickle that copies containers without end")
            return kind(*entries)

        return copy


def _rebuild_tensor(
    storage: Tensor | None, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor | None:
    """As torch's function of the name, but never past the end of the storage."""
    if storage is None:
        return None
    if len(size) > _MOST_AXES:
        raise pickle.UnpicklingError("a tensor of too many axes")
    reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
    if offset < 0 or any(number < 0 for number in (*size, *stride)) or (0 not in size and reach > len(storage)):
        raise pickle.UnpicklingError("a tensor that claims more numbers than there are")
    if math.prod(size) > max(len(storage), MAX_REPEATED):
        raise pickle.UnpicklingError("a tensor that repeats its numbers without end")
    return storage.as_strided(size, stride, storage.storage_offset() + offset)


def _rebuild_tensor_of(
    storage: Tensor | None,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    _requires_grad: object,
    _hooks: object,
    dtype: object,
    *_: object,
) -> Tensor | None:
    """As torch's function for numbers whose storage is plain bytes."""
    if not isinstance(dtype, torch.dtype):
        raise pickle.UnpicklingError("a tensor of numbers of no known kind")
    return _rebuild_tensor(None if storage is None else storage.view(dtype), offset, size, stride)


def _rebuild_from_type(function: object, _kind: object, arguments: tuple[object, ...], *_: object) -> object:
    """As torch's function for tensors that carry attributes, which are forgotten."""
    if not isinstance(function, _Function):
        raise pickle.UnpicklingError("a tensor is made by something that is no function")
    return function(*arguments)


def _array_of_bytes(data: object, dtype: object, shape: object, order: object, *_: object) -> _NumpyArray:
    array = _NumpyArray()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _reconstruct(kind: object, *_: object) -> object:
    if not (isinstance(kind, type) and issubclass(kind, StandIn)):
        raise pickle.UnpicklingError("an object is made of something that is no class")
    return kind()


def module_state(module: StandIn) -> dict[str, Tensor]:
    """Return the weights below a stand-in of a torch module, as ``state_dict`` names them.

    Args:
        module: Of a `torch.nn.Module`, whose children, parameters and buffers torch pickles in dictionaries.
    """
    state: dict[str, Tensor] = {}
    for prefix, part in named_modules(module):
        temporary = part.attributes.get("_non_persistent_buffers_set")
        for group in ("_parameters", "_buffers"):
            for name, value in mapping(part.attributes.get(group)).items():
                if isinstance(value, Tensor) and not (isinstance(temporary, set) and name in temporary):
                    state[f"{prefix}{name}"] = value
    return state


def named_modules(module: StandIn) -> list[tuple[str, StandIn]]:
    """Return a module and all below it, each with the beginning of the names of its weights ("model.0.")."""
    found: list[tuple[str, StandIn]] = []
    waiting: list[tuple[str, StandIn, int]] = [("", module, 0)]
    while waiting:
        prefix, part, depth = waiting.pop()
        found.append((prefix, part))
        if depth == 64 or len(found) == 100_000:  # a pickle can hold itself
            raise CheckpointError("the modules in this file contain each other", cure=_GET_AGAIN)
        children = mapping(part.attributes.get("_modules"))
        waiting += [
            (f"{prefix}{name}.", child, depth + 1)
            for name, child in reversed(children.items())
            if isinstance(child, StandIn)
        ]
    return found


def mapping(value: object) -> dict[str, Any]:
    """Return a dictionary of the file under keys that are text or numbers; an empty one for anything else."""
    if not isinstance(value, dict):
        return {}
    return {str(key): item for key, item in value.items() if isinstance(key, (str, int, float))}
