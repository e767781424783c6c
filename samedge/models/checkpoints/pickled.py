"""Checkpoints that hold a whole model object, read as data: every class in them becomes a plain stand-in.

Ultralytics saves the model itself and not its weights: a pickle that names the classes of its package. Here the names
are read and no class is looked up: `collections.OrderedDict` and a few builtin containers are themselves, tensors are
rebuilt from the bytes in the file, and all else on the list is a `StandIn` that only remembers what it was given. A
name that is not on the list ends the reading. Nothing of the file is executed, and no foreign package is imported.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from torch import Tensor

from samedge.errors import CheckpointError, UnsafeCheckpointError

FOREIGN_ROOT: Final = "ultralytics."
"""Packages whose classes are read as stand-ins. Files that name none of them are not read here."""

MAX_PICKLE: Final = 1 << 24
"""Bytes of the largest pickle that is read: the structure of a model, without its numbers."""

MAX_EXPANSION: Final = 64
"""How many times its size in the file a part may unpack to: weights hardly shrink, and zeros a thousandfold."""

MAX_REPEATED: Final = 1 << 24
"""Numbers of the largest tensor that has fewer of its own, and repeats them."""

_STAND_IN_ROOTS: Final = (FOREIGN_ROOT, "torch.nn.")
_STAND_INS: Final = frozenset(
    {
        "torch.device",
        "argparse.Namespace",
        "types.SimpleNamespace",
        "builtins.object",
        "_codecs.encode",
        "numpy.dtype",
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local")
          for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        "numpy.ndarray",
    }
)  # fmt: skip
"""Besides modules, what training scripts keep in a checkpoint: options, paths, dates, figures."""

_PLAIN: Final[dict[str, type[Any]]] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.tuple": tuple,
    "torch.Size": tuple,
}
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
}
_OLD_MODULES: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_GET_AGAIN: Final = "Get the file again"


class StandIn:
    """In place of an object of a class that is not looked up.

    Attributes:
        kind: Full name of the class, such as "ultralytics.nn.tasks.SegmentationModel".
        attributes: What the pickle set on the object.
    """

    kind: str = ""

    def __init__(self, *_: object, **__: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Take any arguments, as the class in the file may."""
        stand_in = super().__new__(cls)
        stand_in.attributes = {}
        return stand_in

    def __setstate__(self, state: object) -> None:
        """Keep attributes: a dictionary, or a pair of it and that of the slots."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.attributes.update({str(name): value for name, value in part.items()})

    def __setitem__(self, key: object, value: object) -> None:
        """Take and forgets what a subclass of dict or list holds."""

    def append(self, value: object) -> None:
        """Take and forgets what a subclass of list holds."""

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class _Numbers(Tensor):
    """A tensor whose state no pickle can set: torch's own would let it point anywhere, and grow."""

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("a pickle sets the state of a tensor")


class _Rebuild:
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


def read_pickled(path: Path) -> object:
    """Return the content of a checkpoint that holds objects of foreign classes.

    Args:
        path: A zip file as ``torch.save`` writes it.

    Returns:
        What was saved, with a `StandIn` for every object and CPU tensors of the file's own dtypes.

    Raises:
        UnsafeCheckpointError: The file names a class or function that is not on the list; it was not looked up.
        CheckpointError: The file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root_of(archive, path)
            data = archive.read(f"{root}data.pkl")
            _check_opcodes(data, path)
            return _Unpickler(io.BytesIO(data), archive, root, path).load()
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError("there is not enough memory for this file", where=path, cure=_GET_AGAIN) from error
    except Exception as error:  # whatever a foreign byte stream makes the unpickler stumble over
        raise CheckpointError(
            f"this is damaged or cut off ({type(error).__name__}: {str(error)[:200]})", where=path, cure=_GET_AGAIN
        ) from error


def _root_of(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the folder in the archive that holds the pickle and the numbers, with a slash at its end."""
    members = archive.namelist()
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"there are {len(pickles)} pickles in this file and not one", where=path, cure=_GET_AGAIN)
    root = pickles[0].removesuffix("data.pkl")
    _check_expansion(archive.getinfo(pickles[0]), path)
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
        raise CheckpointError("the pickle in this file is too large for a model", where=path, cure=_GET_AGAIN)
    if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
        raise CheckpointError(
            "the numbers in this file are big-endian", where=path, cure="Save it again on a little-endian machine"
        )
    return root


def _check_opcodes(data: bytes, path: Path) -> None:
    """Refuse what the unpickler would act on before it asks for a name.

    Raises:
        UnsafeCheckpointError: The pickle refers to objects by number, which may be there already.
        CheckpointError: It asks for more places than it has bytes.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.startswith("EXT"):
            raise UnsafeCheckpointError(
                f"the file refers to extension {argument}, which has no place in a model; nothing was run",
                where=path,
                cure="Do not load it where it could run",
                foreign=f"extension {argument}",
            )
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):  # memory for so many would be taken at once
            raise CheckpointError(f"the pickle in this file counts to {argument}", where=path, cure=_GET_AGAIN)


def _check_expansion(member: zipfile.ZipInfo, path: Path) -> None:
    if member.file_size > MAX_EXPANSION * member.compress_size:
        raise CheckpointError(
            f"{member.filename!r} in this file would unpack to {member.file_size / 1e6:.0f} MB, more than "
            f"{MAX_EXPANSION} times its size",
            where=path,
            cure=_GET_AGAIN,
        )


class _Unpickler(pickle.Unpickler):
    """Reads a pickle without looking anything up."""

    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, root: str, where: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self._archive = archive
        self._root = root
        self._where = where
        self._storages: dict[str, Tensor] = {}
        self._known: dict[str, object] = {
            **_PLAIN,
            **{str(dtype): dtype for dtype in _DTYPES.values()},
            **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
            "torch._utils._rebuild_tensor_v2": _Rebuild(_rebuild_tensor),
            "torch._utils._rebuild_parameter": _Rebuild(lambda data, *_: data),
            "torch._utils._rebuild_parameter_with_state": _Rebuild(lambda data, *_: data),
            "copyreg._reconstructor": _Rebuild(_reconstruct),
        }

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what stands for a name in the pickle.

        Raises:
            UnsafeCheckpointError: The name is not on the list.
        """
        full = f"{_OLD_MODULES.get(module, module)}.{name}"
        if full not in self._known:
            if not full.startswith(_STAND_IN_ROOTS) and full not in _STAND_INS:
                raise UnsafeCheckpointError(
                    f"the file refers to {full}, which has no place in a model; nothing was run",
                    where=self._where,
                    cure="Do not load it where it could run. If you trust it, save its weights alone: "
                    "torch.save(model.state_dict(), path)",
                    foreign=full,
                )
            self._known[full] = type(name, (StandIn,), {"kind": full})
        return self._known[full]

    def persistent_load(self, pid: Any, /) -> Tensor:
        """Return the numbers behind a tensor, 1-D, in the file's own dtype.

        Raises:
            CheckpointError: They are not there, or not as many as the file says.
        """
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int):
            raise pickle.UnpicklingError("a reference to something that is no storage")
        key = str(key)
        if key not in self._storages:
            member = self._archive.getinfo(f"{self._root}data/{key}")
            if member.file_size < count * dtype.itemsize or count < 0:
                raise CheckpointError(
                    f"the numbers {key!r} are cut off: {member.file_size} of {count * dtype.itemsize} bytes",
                    where=self._where,
                    cure=_GET_AGAIN,
                )
            _check_expansion(member, self._where)
            if count == 0:
                numbers = torch.empty(0, dtype=dtype)
            else:
                numbers = torch.frombuffer(bytearray(self._archive.read(member)), dtype=dtype, count=count)
            self._storages[key] = numbers.as_subclass(_Numbers)
        storage = self._storages[key]
        return storage if storage.dtype == dtype else storage.view(dtype)


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """As torch's function of the name, but never past the end of the storage."""
    reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
    if offset < 0 or any(number < 0 for number in (*size, *stride)) or (0 not in size and reach > len(storage)):
        raise pickle.UnpicklingError("a tensor that claims more numbers than there are")
    if math.prod(size) > max(len(storage), MAX_REPEATED):
        raise pickle.UnpicklingError("a tensor that repeats its numbers without end")
    return storage.as_strided(size, stride, offset)


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
                    state[f"{prefix}{name}"] = value.as_subclass(Tensor)
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
    """Return a dictionary of the file under keys that are text; an empty one for anything else."""
    # Not value.items(): a pickle can set an attribute of this name on an OrderedDict.
    return {str(key): item for key, item in dict.items(value)} if isinstance(value, dict) else {}
