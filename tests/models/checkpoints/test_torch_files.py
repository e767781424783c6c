"""Files of torch, zip and legacy: read as torch's own safe loader reads them, and within limits where it has none."""

from __future__ import annotations

import argparse
import enum
import io
import pickle
import subprocess
import sys
import types
import uuid
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samedge.errors import CheckpointError, UnsafeCheckpointError
from samedge.models.checkpoints.pickled import StandIn
from samedge.models.checkpoints.read import read_checkpoint
from samedge.models.checkpoints.torch_files import read_pickled

DTYPES = [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool, torch.complex64, torch.complex128),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
]


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_compressed(content: object, path: Path) -> None:
    stored = io.BytesIO()
    torch.save(content, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))


def save_protocol_4(content: object, path: Path) -> None:
    torch.save(content, path, pickle_protocol=4)


FORMS: dict[str, Callable[[object, Path], None]] = {
    "zip": save_zip,
    "legacy": save_legacy,
    "compressed": save_compressed,
    "protocol 4": save_protocol_4,
}


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    numbers = torch.from_numpy(np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, 240)).to(dtype)
    form = draw(st.sampled_from(["whole", "offset", "transposed", "strided", "expanded", "empty", "scalar"]))
    if form == "offset":
        return numbers[7:67].reshape(3, 4, 5)
    if form == "transposed":
        return numbers.reshape(4, 60).T
    if form == "strided":
        return numbers.as_strided((5, 6), (40, 3), 11)
    if form == "expanded":
        return numbers[3:4].expand(4, 5)
    if form == "empty":
        return numbers[:0].reshape(0, 3)
    if form == "scalar":
        return numbers[9]
    return numbers


@st.composite
def contents(draw: st.DrawFn) -> object:
    found = draw(st.lists(tensors(), min_size=1, max_size=4))
    content: dict[str, Any] = {f"layer.{n}.weight": value for n, value in enumerate(found)}
    content["again"] = found[0]
    content["part"] = found[0].reshape(-1)[1:]
    content["parameter"] = torch.nn.Parameter(torch.arange(4.0), requires_grad=draw(st.booleans()))
    content["beside"] = {"epoch": draw(st.integers()), "lr": draw(st.floats(allow_nan=False)), "none": None, "set": {1}}
    content["size"] = torch.Size([1, 2])
    return {"model": OrderedDict(content), "list": [content, (1, "ü", b"x", 1j)]} if draw(st.booleans()) else content


def equal(left: Any, right: Any) -> bool:
    if isinstance(right, torch.Tensor):
        return bool(
            left.dtype == right.dtype
            and left.shape == right.shape
            and (left.stride() == right.stride())
            and left.contiguous().view(-1).tolist() == right.detach().contiguous().view(-1).tolist()
        )
    if isinstance(right, Mapping):
        return list(left) == list(right) and all(equal(left[key], value) for key, value in right.items())
    if isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(equal(*pair) for pair in zip(left, right, strict=True))
    return isinstance(left, StandIn) or left == right  # bytes and complex numbers are calls


@settings(max_examples=60, deadline=None)
@given(content=contents(), form=st.sampled_from(["zip", "legacy", "compressed"]))
def test_what_torch_reads_is_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, content: object, form: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "same.pt"
    path.unlink(missing_ok=True)  # the last one may still be mapped
    FORMS[form](content, path)
    try:
        reference = torch.load(path, weights_only=True)
    except AttributeError:  # torch cannot read its own legacy files of unsigned integers, which lack a typed storage
        assert form == "legacy"
        reference = content
    assert equal(read_pickled(path).content, reference)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_a_legacy_file_of_unsigned_integers_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {"a": torch.arange(6).to(dtype).reshape(2, 3), "b": torch.ones(2)}
    FORMS["legacy"](content, tmp_path / "x.pt")
    assert equal(read_pickled(tmp_path / "x.pt").content, content)


class Colour(enum.Enum):
    RED = 1


class Tagged(torch.nn.Linear):
    """A module of somebody's own."""


INERT: list[object] = [
    torch.nn.Linear(2, 2),
    Tagged(2, 2),
    argparse.Namespace(lr=1),
    types.SimpleNamespace(lr=1),
    Path("runs/x"),
    PureWindowsPath("x"),
    datetime(2024, 1, 2, tzinfo=timezone.utc),
    timedelta(1),
    np.float64(0.5),
    np.int64(3),
    np.arange(6.0).reshape(2, 3),
    np.dtype("float32"),
    Colour.RED,
    Decimal("0.1"),
    Fraction(1, 3),
    uuid.UUID(int=5),
    Counter("ab"),
    defaultdict(list, a=[1]),
    bytearray(b"x"),
    b"bytes",
    1j,
    range(3),
    torch.device("cpu"),
    torch.strided,
    torch.float16,
    torch.Size([1]),
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]),
]


class TestInert:
    @pytest.mark.parametrize("form", list(FORMS))
    @pytest.mark.parametrize("thing", INERT, ids=lambda thing: type(thing).__name__)
    def test_objects_beside_the_weights(self, tmp_path: Path, thing: object, form: str) -> None:
        path = tmp_path / "a.pt"
        FORMS[form]({"model": {"neck.weight": torch.ones(2)}, "beside": thing}, path)
        assert list(read_checkpoint(path).state) == ["neck.weight"]

    @pytest.mark.parametrize("form", list(FORMS))
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_the_weights_of_a_module(self, tmp_path: Path, form: str, wrapped: bool) -> None:
        module = torch.nn.Sequential(Tagged(3, 2), torch.nn.BatchNorm1d(2))
        FORMS[form]({"model": module, "epoch": 3} if wrapped else module, tmp_path / "a.pt")
        state, expected = read_checkpoint(tmp_path / "a.pt").state, module.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], value) for key, value in expected.items())
        assert {type(value) for value in state.values()} == {torch.Tensor}

    def test_a_tensor_with_attributes(self, tmp_path: Path) -> None:
        tagged: Any = torch.arange(3.0)
        tagged.note = "mine"
        torch.save({"neck.weight": tagged}, tmp_path / "a.pt")
        assert read_checkpoint(tmp_path / "a.pt").state["neck.weight"].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.empty(2, device="meta")], ids=["sparse", "meta"])
    def test_tensors_that_are_no_plain_numbers(self, tmp_path: Path, value: torch.Tensor) -> None:
        torch.save({"neck.weight": value}, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="of a kind that is not read") as caught:
            read_checkpoint(tmp_path / "a.pt")
        assert not isinstance(caught.value, UnsafeCheckpointError)

    def test_weights_that_hold_themselves(self, tmp_path: Path) -> None:
        content: dict[str, Any] = {"a": 1}
        content.update(dict.fromkeys(("model", "state_dict", "net", "module", "weights"), content))
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="no weights"):
            read_checkpoint(tmp_path / "a.pt")


def pickled(data: bytes) -> bytes:
    """A zip file with this pickle, and 16 bytes of numbers."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/data/0", bytes(16))
        archive.writestr("a/data/1", bytes(16))
    return file.getvalue()


def storage(count: bytes, key: bytes = b"0") -> bytes:
    return b"(U\x07storagectorch\nFloatStorage\nU\x01" + key + b"N" + count + b"tQ"


def tensor(count: bytes, size: bytes, stride: bytes) -> bytes:
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return rebuild + storage(count) + b"K\x00" + size + stride + b"NNtR"


def legacy(content: bytes, *, keys: object = ("0",), records: bytes = b"", system: object = None) -> bytes:
    """A file of the old format with this pickle as its content."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True} if system is None else system]
    parts = [pickle.dumps(part, protocol=2) for part in head]
    return b"".join([*parts, content, pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2), records])


def record(count: int, there: int) -> bytes:
    return count.to_bytes(8, "little", signed=True) + bytes(4 * there)


TWO_BILLION = b"J\x00\x94\x35\x77"  # 2e9
FOUR = tensor(b"K\x04", b"K\x04\x85", b"K\x01\x85")

HOSTILE: dict[str, bytes] = {
    "bytearray(n)": pickled(b"\x80\x02cbuiltins\nbytearray\n" + TWO_BILLION + b"\x85R."),
    "legacy bytearray(n)": legacy(b"\x80\x02cbuiltins\nbytearray\n" + TWO_BILLION + b"\x85R.", keys=()),
    "plain bytearray(n)": b"\x80\x02c__builtin__\nbytearray\n" + TWO_BILLION + b"\x85R.",
    "Tensor(n)": pickled(b"\x80\x02}U\x01actorch\nTensor\n" + TWO_BILLION + b"\x85Rs."),
    "Parameter(n)": pickled(b"\x80\x02}U\x01actorch.nn.parameter\nParameter\n" + TWO_BILLION + b"\x85Rs."),
    "FloatTensor(n)": pickled(b"\x80\x02ctorch\nFloatTensor\n" + TWO_BILLION + b"\x85R."),
    "storage(n)": pickled(b"\x80\x02ctorch\nFloatStorage\n" + TWO_BILLION + b"\x85R."),
    "UntypedStorage(n)": pickled(b"\x80\x02ctorch.storage\nUntypedStorage\n" + TWO_BILLION + b"\x85R."),
    "torch.empty(n)": pickled(b"\x80\x02ctorch\nempty\n" + TWO_BILLION + b"\x85R."),
    "record shorter than its claim": pickled(b"\x80\x02}U\x01a" + tensor(b"K\x40", b"K\x40\x85", b"K\x01\x85") + b"s."),
    "two claims of one record": pickled(b"\x80\x02" + storage(b"K\x02") + storage(b"K\x04") + b"\x86."),
    "a huge claim": pickled(b"\x80\x02" + tensor(TWO_BILLION, TWO_BILLION + b"\x85", b"K\x01\x85") + b"."),
    "a negative claim": pickled(b"\x80\x02" + storage(b"J\xff\xff\xff\xff") + b"."),
    "numbers repeated": pickled(b"\x80\x02" + tensor(b"K\x04", TWO_BILLION + b"\x85", b"K\x00\x85") + b"."),
    "wide integers": pickled(b"\x80\x02(" + b"\x8a\x0a" * 0 + (b"\x8a\x0a" + b"\x01" * 10) * 9 + b"t."),
    "a long integer": pickled(b"\x80\x02\x8b\x00\x00\x00\x40" + bytes(64) + b"."),
    "nines": pickled(b"L" + b"9" * 100_000 + b"L\n."),
    "numbers that are copied": pickled(b"\x80\x02](" + b"K\x01" * 60_000 + b"eq\x010" + b"cbuiltins\nlist\nq\x020]" +
                                       b"h\x02h\x01\x85Ra" * 60_000 + b"."),
    "numbers that are set": pickled(b"\x80\x02" + FOUR + b"K\x00K\x01s."),
    "a sum of tensors": pickled(b"\x80\x04" + FOUR + b"(" + FOUR + b"\x90."),
    "many classes": pickled(b"\x80\x02" + b"".join(b"ca\nX%d\n0" % n for n in range(5_000)) + b"N."),
    "many steps": pickled(b"N0" * 1_200_000 + b"N."),
    "bytes that are claimed": pickled(b"\x80\x05\x96" + b"\xff" * 7 + b"\x3f."),
    "legacy without records": legacy(b"\x80\x02" + FOUR + b"."),
    "legacy with half a record": legacy(b"\x80\x02" + FOUR + b".", records=record(4, 2)),
    "legacy with another count": legacy(b"\x80\x02" + FOUR + b".", records=record(5, 5)),
    "legacy with a negative count": legacy(b"\x80\x02" + FOUR + b".", records=record(-1, 4)),
    "legacy with a huge claim": legacy(
        b"\x80\x02" + tensor(TWO_BILLION, TWO_BILLION + b"\x85", b"K\x01\x85") + b".", records=record(2 * 10**9, 4)),
    "legacy without the key": legacy(b"\x80\x02" + FOUR + b".", keys=(), records=record(4, 4)),
    "legacy with a foreign key": legacy(b"\x80\x02" + FOUR + b".", keys=("1",), records=record(4, 4)),
    "legacy with no list of keys": legacy(b"\x80\x02" + FOUR + b".", keys={"0": 1}, records=record(4, 4)),
    "legacy, big-endian": legacy(b"\x80\x02N.", keys=(), system={"little_endian": False}),
    "legacy, another version": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1002, 2) + b"N.N.N.",
    "a pickle and no more": pickle.dumps({"neck.weight": [1.0]}, 2),
}  # fmt: skip


def bomb() -> bytes:
    """A thousand members that all unpack one and the same part of the file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + FOUR + b".", zipfile.ZIP_STORED)
        # Of noise and zeros, so that no member alone unpacks to too much.
        archive.writestr("a/data/0", np.random.default_rng(0).bytes(20_000) + bytes(1_000_000))
        first = archive.getinfo("a/data/0")
        for n in range(1, 1000):
            again = zipfile.ZipInfo(f"a/data/{n}")
            for name in ("CRC", "compress_size", "file_size", "header_offset", "compress_type", "flag_bits"):
                setattr(again, name, getattr(first, name))
            archive.filelist.append(again)
    return file.getvalue()


HOSTILE["members that overlap"] = bomb()

REASONS: dict[str, str] = {
    "record shorter than its claim": "16 of 256 bytes",
    "two claims of one record": "two sizes",
    "a huge claim": "16 of 8000000000 bytes",
    "wide integers": "more than 64 bits",
    "numbers that are copied": "copies containers",
    "numbers that are set": "sets numbers of a tensor",
    "a sum of tensors": "adds to a tensor",
    "many classes": "more than 4096 classes",
    "many steps": "more than 2097152 instructions",
    "legacy without records": "cut off: 0 of 8 bytes",
    "legacy with half a record": "cut off: 8 of 16 bytes",
    "legacy with another count": "20 of 16 bytes",
    "legacy with a huge claim": "cut off: 16 of 8000000000 bytes",
    "legacy, big-endian": "big-endian",
    "members that overlap": "this file would unpack to",
    "Tensor(n)": "no weights in this file",
    "a pickle and no more": "no checkpoint",
}

CHILD = """
import resource, sys
from pathlib import Path
from samedge.errors import CheckpointError
from samedge.models.checkpoints.read import read_checkpoint
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (600 << 20),) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        print(path.name, "|", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process as Linux has them")
def test_hostile_files_are_refused_within_a_little_memory(tmp_path: Path) -> None:
    for n, data in enumerate(HOSTILE.values()):
        (tmp_path / f"{n:02}").write_bytes(data)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert child.returncode == 0, child.stderr
    refused = dict(line.split(" | ", 1) for line in child.stdout.splitlines())
    assert list(refused) == [f"{n:02}" for n in range(len(HOSTILE))]
    said = dict(zip(HOSTILE, refused.values(), strict=True))
    assert [text for text in said.values() if "not enough memory" in text] == []
    assert {name: text for name, text in REASONS.items() if text not in said[name]} == {}


def test_parts_of_storages_in_old_files(tmp_path: Path) -> None:
    view = b"(U\x07storagectorch\nFloatStorage\nU\x010NK\x04(U\x01vK\x01K\x02ttQ"
    rebuild = b"}U\x01a" + b"ctorch._utils\n_rebuild_tensor\n(" + view + b"K\x00K\x02\x85K\x01\x85tRs."
    numbers = (4).to_bytes(8, "little") + np.arange(4, dtype="<f4").tobytes()
    (tmp_path / "a.pt").write_bytes(legacy(b"\x80\x02" + rebuild, records=numbers))
    assert read_checkpoint(tmp_path / "a.pt").state["a"].tolist() == [1, 2]


def test_numbers_are_mapped_and_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"neck.weight": torch.zeros(1 << 22)}, path)
    value = read_checkpoint(path).state["neck.weight"]
    value[0] = 5  # of the process alone
    assert read_checkpoint(path).state["neck.weight"][0] == 0
    assert "a.pt" in Path("/proc/self/maps").read_text() or sys.platform != "linux"
