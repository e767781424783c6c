"""Files that hold a whole model object: read without looking anything up, and nothing of theirs is run.

The files are made with torch's own saving and classes that carry the foreign names, so no foreign package is needed;
files that Ultralytics itself wrote are read in tests/peers/test_ultralytics.py.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from samedge.errors import CheckpointError, UnsafeCheckpointError
from samedge.models.checkpoints.pickled import StandIn, module_state
from samedge.models.checkpoints.read import read_checkpoint
from samedge.models.checkpoints.torch_files import read_pickled

TASKS = "ultralytics.nn.tasks"


@contextmanager
def foreign_module(name: str, **contents: Any) -> Iterator[types.ModuleType]:
    """A module of this name while the block runs, so that pickle can refer to what is in it."""
    parts = name.split(".")
    added = [".".join(parts[: n + 1]) for n in range(len(parts)) if ".".join(parts[: n + 1]) not in sys.modules]
    for each in added:
        sys.modules[each] = types.ModuleType(each)
    for key, value in contents.items():
        setattr(sys.modules[name], key, value)
    try:
        yield sys.modules[name]
    finally:
        for each in added:
            del sys.modules[each]


class DetectionModel(nn.Module):
    """Carries Ultralytics' name in the file."""

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=eps), nn.SiLU())
        self.names = {0: "person", 1: "Fahrrad – ü"}
        self.stride = torch.tensor([8.0, 16.0, 32.0])
        self.yaml = {"nc": 2, "backbone": [[-1, 1, "Conv", [64, 3, 2]]]}


DetectionModel.__module__ = TASKS


def save(content: object, path: Path, module: str = TASKS, **classes: Any) -> Path:
    with foreign_module(module, **classes):
        torch.save(content, path)
    return path


def save_model(path: Path, **beside: object) -> tuple[Path, DetectionModel]:
    torch.manual_seed(5)
    model = DetectionModel()
    save({"model": model, "ema": None, **beside}, path, DetectionModel=DetectionModel)
    return path, model


class TestModels:
    def test_the_weights_are_those_of_the_module(self, tmp_path: Path) -> None:
        path, model = save_model(tmp_path / "a.pt")
        checkpoint = read_checkpoint(path)
        expected = model.state_dict()
        assert checkpoint.state.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(checkpoint.state[name], value, rtol=0, atol=0)

    def test_half_precision_becomes_float32(self, tmp_path: Path) -> None:
        model = DetectionModel().half()
        path = save({"model": model}, tmp_path / "a.pt", DetectionModel=DetectionModel)
        weight = read_checkpoint(path).state["model.0.weight"]
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, model.state_dict()["model.0.weight"].float(), rtol=0, atol=0)

    def test_the_averaged_weights_come_first(self, tmp_path: Path) -> None:
        model, averaged = DetectionModel(), DetectionModel()
        averaged.state_dict()["model.1.weight"].fill_(7)
        path = save({"model": model, "ema": averaged}, tmp_path / "a.pt", DetectionModel=DetectionModel)
        assert read_checkpoint(path).state["model.1.weight"].eq(7).all()

    def test_what_the_weights_do_not_tell(self, tmp_path: Path) -> None:
        path, _ = save_model(tmp_path / "a.pt", train_args={"imgsz": 320, "data": "coco.yaml"})
        assert read_checkpoint(path).metadata == {
            "names": '{"0": "person", "1": "Fahrrad – ü"}',
            "stride": "[8.0, 16.0, 32.0]",
            "task": "detect",
            "imgsz": "320",
            "batch_norm_eps": "0.001",
            "layers": '["Conv2d", "BatchNorm2d", "SiLU"]',
            "shortcut_layers": "[]",
            "activations": "[]",
            "plain_convolutions": "[]",
            "attention": "{}",
        }

    def test_what_training_leaves_beside_the_model(self, tmp_path: Path) -> None:
        path, _ = save_model(
            tmp_path / "a.pt",
            save_dir=Path("runs/train"),
            when=datetime(2024, 1, 2, tzinfo=timezone.utc),
            best_fitness=np.float64(0.5),
            scores=np.arange(3.0),
            args=types.SimpleNamespace(lr=0.1),
            device=torch.device("cpu"),
            dtype=torch.float16,
            shape=torch.Size([2, 3]),
            classes={1, 2},
        )
        assert len(read_checkpoint(path).state) == 6

    def test_an_old_protocol(self, tmp_path: Path) -> None:
        model = DetectionModel()
        with foreign_module(TASKS, DetectionModel=DetectionModel):
            torch.save({"model": model}, tmp_path / "a.pt", pickle_protocol=2)
        assert len(read_checkpoint(tmp_path / "a.pt").state) == 6

    def test_tensors_that_share_and_views(self, tmp_path: Path) -> None:
        whole = torch.arange(24.0)
        content = {"whole": whole, "part": whole[4:10].reshape(2, 3).T, "empty": torch.zeros(0, 3), "one": whole[23]}
        found: Any = read_pickled(save(content, tmp_path / "a.pt")).content
        for name, value in content.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)

    @pytest.mark.parametrize(
        "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool], ids=str
    )
    def test_dtypes(self, tmp_path: Path, dtype: torch.dtype) -> None:
        value = torch.tensor([0, 1, 1], dtype=dtype)
        found: Any = read_pickled(save([value], tmp_path / "a.pt")).content
        assert found[0].dtype == dtype
        assert torch.equal(found[0], value)

    def test_batch_norms_that_differ_are_refused(self, tmp_path: Path) -> None:
        model = DetectionModel()
        model.model.append(nn.BatchNorm2d(4, eps=1e-5))
        path = save({"model": model}, tmp_path / "a.pt", DetectionModel=DetectionModel)
        with pytest.raises(CheckpointError, match="epsilons"):
            read_checkpoint(path)

    def test_a_file_without_a_model(self, tmp_path: Path) -> None:
        options = type("Options", (), {"__module__": TASKS})
        path = save({"model": None, "args": options()}, tmp_path / "a.pt", Options=options)
        with pytest.raises(CheckpointError, match="no model in this file"):
            read_checkpoint(path)

    def test_modules_that_contain_each_other(self) -> None:
        module = StandIn()
        module.attributes["_modules"] = {"self": module}
        with pytest.raises(CheckpointError, match="contain each other"):
            module_state(module)


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class TestCode:
    @pytest.mark.parametrize(
        ("function", "arguments", "named"),
        [
            (os.system, ("exit 1",), "system"),
            (eval, ("1",), "builtins.eval"),
            (exec, ("1",), "builtins.exec"),
            (getattr, ("x", "upper"), "builtins.getattr"),
            (__import__, ("os",), "builtins.__import__"),
            (torch.load, ("x.pt",), "torch.serialization.load"),
            (torch.hub.load, ("x", "y"), "torch.hub.load"),
            (np.load, ("x.npy",), "numpy.load"),
        ],
    )
    def test_anything_else_is_refused_by_name(
        self, tmp_path: Path, function: Callable[..., object], arguments: tuple[object, ...], named: str
    ) -> None:
        path, _ = save_model(tmp_path / "a.pt", extra=Call(function, *arguments))
        with pytest.raises(UnsafeCheckpointError, match="nothing was run") as caught:
            read_checkpoint(path)
        assert named in str(caught.value.foreign)
        assert named in str(caught.value)
        assert caught.value.where == str(path)

    def test_a_function_is_not_run(self, tmp_path: Path) -> None:
        victim = tmp_path / "made"
        path, _ = save_model(tmp_path / "a.pt", extra=Call(os.mkdir, str(victim)))
        with pytest.raises(UnsafeCheckpointError):
            read_checkpoint(path)
        assert not victim.exists()

    def test_a_class_of_the_foreign_package_is_not_run(self, tmp_path: Path) -> None:
        ran = []

        class Loud:
            def __setstate__(self, state: object) -> None:
                ran.append(state)

        Loud.__module__, Loud.__qualname__ = TASKS, "Loud"
        loud = Loud()
        vars(loud)["x"] = 1
        path = tmp_path / "a.pt"
        model = DetectionModel()
        with foreign_module(TASKS, Loud=Loud, DetectionModel=DetectionModel):
            torch.save({"model": model, "loud": loud}, path)
            read_checkpoint(path)  # while the class can be found
        assert ran == []

    @pytest.mark.parametrize("name", ["torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter"])
    @pytest.mark.parametrize("slots", [False, True])
    def test_functions_keep_no_state(self, tmp_path: Path, name: str, slots: bool) -> None:
        state = b"N}U\x01xK\x01s\x86" if slots else b"}U\x01xK\x01s"
        path = write_zip(tmp_path / "a.pt", b"c" + b"ultralytics\nX\n0c" + name.encode() + b"\n" + state + b"b.")
        with pytest.raises(CheckpointError, match="sets the state of a function"):
            read_checkpoint(path)

    def test_classes_keep_no_state(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.pt", b"cultralytics.nn\nX\n}U\x04kindU\x01ysb.")
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
        path = write_zip(tmp_path / "b.pt", b"cultralytics.nn\nX\n0ccollections\nOrderedDict\n}U\x04kindU\x01ysb.")
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
        assert not hasattr(OrderedDict, "kind")

    def test_methods_of_a_dictionary_that_were_replaced(self, tmp_path: Path) -> None:
        # The pickle sets `items` on the instance, which then hides the method.
        path = write_zip(tmp_path / "a.pt", b"cultralytics\nX\n0ccollections\nOrderedDict\n)R}U\x05itemsK\x01sb.")
        with pytest.raises(CheckpointError, match="no model"):
            read_checkpoint(path)


FOREIGN = b"cultralytics.nn\nX\n0"
"""Every pickle below names the foreign package first, so that it is read here and not by torch."""
TOUCH = b"touch victim"


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def tensor(size: bytes, stride: bytes, count: bytes = b"K\x04") -> bytes:
    """A tensor of the four numbers in "0", as torch pickles it."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010N" + count + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size + stride + b"NNtR"


class TestAttacks:
    """Pickles written by hand: each way that the format has to reach code, and to take memory."""

    @pytest.mark.parametrize(
        ("data", "named"),
        [
            (b"cos\nsystem\nS'" + TOUCH + b"'\n\x85R.", "os.system"),
            (b"(S'" + TOUCH + b"'\nios\nsystem\n.", "os.system"),
            (b"(cos\nsystem\nS'" + TOUCH + b"'\no.", "os.system"),
            (b"\x80\x04" + text("os") + text("system") + b"\x93" + text("touch victim") + b"\x85R.", "os.system"),
            (b"c__builtin__\ngetattr\n(cposix\nsystem\nS'x'\ntR.", "builtins.getattr"),
            (b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93.",
             "collections.OrderedDict.__init__.__globals__"),
            (b"\x80\x02c__builtin__\ntype\n(S'A'\n)}t\x81.", "builtins.type"),
            (b"c_pickle\nloads\nU\x02N.\x85R.", "_pickle.loads"),
            (b"cfunctools\npartial\n(cos\nsystem\ntR.", "functools.partial"),
            (b"coperator\nattrgetter\n(S'system'\ntR.", "operator.attrgetter"),
            (b"c_codecs\nlookup\n(S'utf-8'\ntR.", "_codecs.lookup"),
            (b"\x80\x02\x82\x01.", "extension 1"),
            (b"\x80\x02\x84\xff\xff\xff\x7f.", "extension 2147483647"),
        ],
    )  # fmt: skip
    def test_names_are_refused_and_nothing_is_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, named: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = write_zip(tmp_path / "a.pt", FOREIGN + data)
        for read in (read_pickled, read_checkpoint):
            with pytest.raises(UnsafeCheckpointError, match="nothing was run") as caught:
                read(path)
            assert caught.value.foreign == named
        assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]

    @pytest.mark.parametrize(
        "data",
        [
            b"\x80\x04" + text("ultralytics.nn") + text("X.__subclasses__") + b"\x93)R.",
            b"\x80\x04" + text("torch.nn") + text("Module.__dict__") + b"\x93)R.",
            b"ctorch.nn.modules.module\nos.system\n(U\x01xtR.",
            b"cultralytics.nn\n__import__\n(U\x02ostR.",
            b"\x80\x04cultralytics.nn\nX\n)}U\x01aK\x01s\x92.",
            b"\x80\x02cultralytics.nn\nX\n)\x81}U\x09__class__K\x01sb.",
            b"\x80\x02cultralytics.nn\nX\n)\x81N}U\x0c__setstate__K\x01s\x86b.",
            b"c_codecs\nencode\n(U\x01xU\x03hextR.",
            b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
        ],
    )
    def test_names_inside_a_foreign_package_are_only_names(self, tmp_path: Path, data: bytes) -> None:
        found = read_pickled(write_zip(tmp_path / "a.pt", FOREIGN + data)).content
        assert isinstance(found, StandIn)
        assert type(found).__mro__[1] is StandIn
        assert type(found).__setstate__ is StandIn.__setstate__

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "counts to 2147483647"),
            (b"\x80\x02K\x01p9999999999\n.", "counts to 9999999999"),
            (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged"),
            (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
            (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
            (b"(" * 1000 + b".", "damaged"),
            (b"\x80\x02)K\x01p1000000\n.", "counts to"),
            (b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010N\x8a\x08" + b"\xff" * 7 + b"\x7ftQ.", "cut off"),
            (b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x09../../etcNK\x05tQ.", "no item named"),
            (b"\x80\x02(U\x07storageK\x01U\x010NK\x05tQ.", "no storage"),
            (b"Pstorage\n.", "damaged"),
            (b"\x80\x02" + tensor(b"\x8a\x06" + b"\0" * 5 + b"\1\x85", b"K\x00\x85") + b".", "without end"),
            (b"\x80\x02" + tensor(b"\x8a\x0a" + b"\0" * 9 + b"\1\x85", b"K\x00\x85") + b".", "without end"),
            (b"\x80\x02" + tensor(b"K\x05\x85", b"K\x01\x85") + b".", "claims more numbers"),
            (b"\x80\x02" + tensor(b"K\x04\x85", b"K\x01\x85") + b"q\x01(h\x01K\x05K\x09\x85K\x01\x85tb.",
             "sets the state of a tensor"),
            (b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010NK\x04tQq\x01(h\x01K\x05K\x09\x85K\x01\x85tb.",
             "sets the state of a tensor"),
            (b"", "damaged"),
            (b".", "damaged"),
        ],
    )  # fmt: skip
    def test_memory_and_damage(self, tmp_path: Path, data: bytes, message: str) -> None:
        path = write_zip(tmp_path / "a.pt", FOREIGN + data, **{"data/0": bytes(16)})
        with pytest.raises(CheckpointError, match=message):
            read_pickled(path)

    def test_a_file_that_unpacks_without_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", FOREIGN + b"\x80\x02" + tensor(b"K\x04\x85", b"K\x01\x85") + b".")
            archive.writestr("a/data/0", bytes(1 << 22))
        with pytest.raises(CheckpointError, match="would unpack to 4 MB"):
            read_pickled(path)

    def test_deep_nesting_is_no_recursion(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.pt", FOREIGN + b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")
        with pytest.raises(CheckpointError, match="no model in this file"):
            read_checkpoint(path)


def write_zip(path: Path, data: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        for name, content in members.items():
            archive.writestr(f"a/{name}", content)
    return path


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Writes an archive again with other contents; None leaves a member out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)


class TestDamage:
    def test_numbers_that_are_missing(self, tmp_path: Path) -> None:
        path, _ = save_model(tmp_path / "a.pt")
        rewrite(path, lambda name, content: None if name.endswith("data/1") else content)
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)

    def test_numbers_that_are_cut_off(self, tmp_path: Path) -> None:
        path, _ = save_model(tmp_path / "a.pt")
        rewrite(path, lambda name, content: content[:-1] if name.endswith("data/1") else content)
        with pytest.raises(CheckpointError, match="cut off: 15 of 16 bytes"):
            read_checkpoint(path)

    def test_two_pickles(self, tmp_path: Path) -> None:
        path, _ = save_model(tmp_path / "a.pt")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("b/data.pkl", pickle.dumps({}))
        with pytest.raises(CheckpointError, match="2 pickles"):
            read_checkpoint(path)

    def test_big_endian_numbers(self, tmp_path: Path) -> None:
        path, _ = save_model(tmp_path / "a.pt")
        rewrite(path, lambda name, content: b"big" if name.endswith("byteorder") else content)
        with pytest.raises(CheckpointError, match="big-endian"):
            read_checkpoint(path)

    @pytest.mark.parametrize(
        ("offset", "size", "stride"),
        [(0, (5,), (1,)), (1, (4,), (1,)), (0, (2, 2), (3, 1)), (-1, (1,), (1,)), (3, (4,), (-1,))],
    )
    def test_tensors_that_claim_more_than_there_is(
        self, tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        path = save([torch.zeros(4)], tmp_path / "a.pt")

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj: object) -> object:
                return ("storage", torch.FloatStorage, "0", "cpu", 4) if obj == "numbers" else None

        buffer = io.BytesIO()
        call = Call(torch._utils._rebuild_tensor_v2, "numbers", offset, size, stride, False, OrderedDict())
        Pickler(buffer, protocol=2).dump({"model": call})
        rewrite(path, lambda name, content: buffer.getvalue() if name.endswith("data.pkl") else content)
        with pytest.raises(CheckpointError, match="claims more numbers"):
            read_pickled(path)

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
    def test_any_changed_byte_is_an_error_or_harmless(self, tmp_path: Path, at: float, byte: int) -> None:
        path, _ = save_model(tmp_path / "a.pt")

        def change(name: str, content: bytes) -> bytes:
            if not name.endswith("data.pkl"):
                return content
            spot = int(at * len(content))
            return content[:spot] + bytes([byte]) + content[spot + 1 :]

        rewrite(path, change)
        with suppress(CheckpointError):
            assert read_checkpoint(path).state
