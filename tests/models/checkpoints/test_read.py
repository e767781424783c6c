"""Checkpoint files of every format that is read, and of the many that must be refused without harm."""

from __future__ import annotations

import argparse
import datetime
import enum
import errno
import hashlib
import importlib
import io
import os
import pickle
import random
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samedge.errors import CheckpointError, SamedgeError, StorageError, UnsafeCheckpointError
from samedge.models.checkpoints.read import read_checkpoint

_torch: Any = torch  # parts of it are untyped


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image_encoder.neck.0.weight": torch.randn(40, 30, generator=generator),
        "mask_decoder.iou_token.weight": torch.randn(1, 8, generator=generator),
    }


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_compressed(content: object, path: Path) -> None:
    """What a zip tool makes of an unpacked checkpoint."""
    stored = io.BytesIO()
    torch.save(content, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))


def save_without_checksums(content: object, path: Path) -> None:
    _torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, path)
    finally:
        _torch.serialization.set_crc32_options(True)


def save_ordered(content: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(OrderedDict(content), path)


FORMATS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "ordered": save_ordered,
    "legacy": save_legacy,
    "compressed zip": save_compressed,
    "zip without checksums": save_without_checksums,
    "safetensors": safetensors.torch.save_file,
}


class TestFormats:
    @pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors", "weights"])
    @pytest.mark.parametrize("form", list(FORMATS))
    def test_is_read_whatever_its_name(self, tmp_path: Path, form: str, name: str) -> None:
        path = tmp_path / name
        FORMATS[form](weights(), path)
        checkpoint = read_checkpoint(path)
        assert checkpoint.state.keys() == weights().keys()
        for key, value in weights().items():
            assert torch.equal(checkpoint.state[key], value), key
        assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert checkpoint.path == path

    def test_path_may_be_a_string(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pt"
        torch.save(weights(), path)
        assert read_checkpoint(str(path)).path == path

    def test_metadata_of_safetensors(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(weights(), path, metadata={"image_size": "512"})
        assert read_checkpoint(path).metadata == {"image_size": "512"}

    def test_a_training_checkpoint(self, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        model = torch.nn.Linear(3, 3)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        content = {
            "epoch": 12,
            "model": {f"module.{key}": value for key, value in weights().items()},
            "optimizer": optimizer.state_dict(),
            "best": torch.tensor(0.9),
            "config": {"lr": 1e-4, "size": (1024, 1024), "name": "tune", "on": True, "none": None},
        }
        torch.save(content, path)
        assert read_checkpoint(path).state.keys() == weights().keys()


class Gadget:
    """Creates a file when it is unpickled by something that obeys."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


def pickled(protocol: int) -> Callable[[object, Path], None]:
    def save(content: object, path: Path) -> None:
        path.write_bytes(pickle.dumps(content, protocol=protocol))

    return save


CARRIERS: dict[str, Callable[[object, Path], None]] = {
    "zip": torch.save,
    "legacy": save_legacy,
    "compressed zip": save_compressed,
    **{f"pickle {protocol}": pickled(protocol) for protocol in range(1, 6)},
}


class TestCode:
    @pytest.mark.parametrize("wrap", [False, True], ids=["alone", "beside weights"])
    @pytest.mark.parametrize("carrier", list(CARRIERS))
    def test_nothing_is_executed(self, tmp_path: Path, carrier: str, wrap: bool) -> None:
        victim, path = tmp_path / "executed", tmp_path / "evil.pt"
        gadget = Gadget(victim)
        CARRIERS[carrier]({"model": weights(), "extra": gadget} if wrap else gadget, path)
        # The gadget works: what obeys it does what it says.
        if carrier.startswith("pickle") and not wrap:
            pickle.loads(path.read_bytes())
            victim.rmdir()
        with pytest.raises(UnsafeCheckpointError, match="nothing was run") as caught:
            read_checkpoint(path)
        assert not victim.exists()
        # Plainly pickled tensors ask for code of torch's even before the gadget does.
        assert caught.value.foreign in {"posix.mkdir", "nt.mkdir", "torch.storage._load_from_bytes"}
        assert "torch.save(model.state_dict(), path)" in str(caught.value)

    def test_nothing_is_executed_from_a_pickle_that_is_text(self, tmp_path: Path) -> None:
        victim, path = tmp_path / "executed", tmp_path / "evil.pt"
        path.write_bytes(pickle.dumps(Gadget(victim), protocol=0))
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
        assert not victim.exists()

    def test_a_torchscript_program_is_refused(self, tmp_path: Path) -> None:
        # As `torch.jit.save` lays it out; that function itself warns that it is going away.
        path = tmp_path / "program.pt"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
                archive.writestr(f"program/{name}", b"3\n")
        with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
            read_checkpoint(path)


def whole_file(form: Callable[[Any, Path], None], path: Path) -> bytes:
    form(weights(), path)
    return path.read_bytes()


class TestDamage:
    @pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.1, 0.02])
    @pytest.mark.parametrize("form", ["zip", "legacy", "compressed zip", "safetensors"])
    def test_a_file_that_is_cut_off(self, tmp_path: Path, form: str, kept: float) -> None:
        path = tmp_path / "cut.pt"
        data = whole_file(FORMATS[form], path)
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(CheckpointError, match="Get the file again") as caught:
            read_checkpoint(path)
        assert not isinstance(caught.value, UnsafeCheckpointError)

    def test_a_flipped_bit_in_the_weights(self, tmp_path: Path) -> None:
        # torch itself does not notice.
        path = tmp_path / "flipped.pt"
        data = bytearray(whole_file(torch.save, path))
        at = data.index(weights()["image_encoder.neck.0.weight"].numpy().tobytes()[:32])
        data[at + 3] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="checksum"):
            read_checkpoint(path)

    @settings(max_examples=80)
    @given(data=st.binary(max_size=300))
    def test_random_bytes(self, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
        path = tmp_path_factory.getbasetemp() / "random.pt"
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)

    @settings(max_examples=80)
    @given(
        form=st.sampled_from(["legacy", "zip without checksums", "safetensors"]),
        where=st.floats(0, 1, exclude_max=True),
        value=st.integers(0, 255),
        length=st.integers(1, 8),
    )
    def test_bytes_overwritten(
        self, tmp_path_factory: pytest.TempPathFactory, form: str, where: float, value: int, length: int
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "overwritten.pt"
        data = bytearray(whole_file(FORMATS[form], path))
        head = 1500 if form != "safetensors" else 300  # behind it are plain numbers, where all bytes are as good
        at = int(where * min(len(data), head))
        data[at : at + length] = bytes([value]) * length
        path.write_bytes(data)
        with suppress(CheckpointError):  # and nothing else
            state = read_checkpoint(path).state
            assert all(torch.isfinite(value).all() for value in state.values())


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "empty"),
            (b"hello, I am a note\nwith two lines\n", "text file"),
            (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
            (b"\n  <?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 375042383\n", "git lfs pull"),
            (b"\x89PNG\r\n\x1a\n" + bytes(200), "no checkpoint"),
            (b"\x08\x09\x12\x07pytorch", "no checkpoint"),
            (b"\x80\x05\x96" + b"\xff" * 7 + b"\x3f" + b"claims 4 EiB", "no checkpoint"),
        ],
    )
    def test_a_file_of_another_kind(self, tmp_path: Path, content: bytes, says: str) -> None:
        path = tmp_path / "sam_b.pt"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=says) as caught:
            read_checkpoint(path)
        assert "sam_b.pt" in str(caught.value)
        assert caught.value.cure

    def test_a_zip_file_without_weights(self, tmp_path: Path) -> None:
        path = tmp_path / "other.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("sam_b.pt", b"weights")
        with pytest.raises(CheckpointError, match="unpack it"):
            read_checkpoint(path)

    @pytest.mark.parametrize("content", [[1, 2], "text", {"epoch": 3}, torch.ones(3)])
    def test_a_torch_file_without_a_state_dict(self, tmp_path: Path, content: object) -> None:
        path = tmp_path / "other.pt"
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="no weights"):
            read_checkpoint(path)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="folder"):
            read_checkpoint(tmp_path)
        (tmp_path / "manifest.json").write_text("{}")
        with pytest.raises(CheckpointError, match="bundle"):
            read_checkpoint(tmp_path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="no such file"):
            read_checkpoint(tmp_path / "absent.pt")

    def test_a_pipe(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with pytest.raises(CheckpointError, match="regular file"):
            read_checkpoint(path)

    def test_a_file_that_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Not by chmod: the superuser, whom containers run as, may read everything.
        path = tmp_path / "secret.pt"
        torch.save(weights(), path)

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(StorageError, match="Check the permissions"):
            read_checkpoint(path)

    def test_without_safetensors_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(weights(), path)
        monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
        with pytest.raises(SamedgeError, match="pip install"):
            read_checkpoint(path)


class Mode(enum.Enum):
    TRAIN = "train"


class Options(NamedTuple):
    rate: float
    mode: Mode


INERT: dict[str, object] = {
    "a figure of numpy": np.float64(0.5),
    "options": argparse.Namespace(lr=0.1, output=Path("runs")),
    "a path": Path("runs/1"),
    "a date": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    "an array": np.arange(6.0).reshape(2, 3),
    "an array of objects": np.array([1, "a", None], dtype=object),
    "an array of records": np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
    "an enum": Mode.TRAIN,
    "a named tuple": Options(0.1, Mode.TRAIN),
    "generators of random numbers": [np.random.default_rng(0), np.random.RandomState(0), random.Random(1)],
    "a module": torch.nn.Linear(2, 2),
    "an optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]),
    "a scaler": torch.amp.GradScaler("cpu"),
    "containers": [Counter("aab"), deque([1]), defaultdict(list, a=[1]), ..., {1, 2}, range(3), slice(1, 2)],
}


class TestInertObjects:
    @pytest.mark.parametrize("form", [torch.save, save_legacy], ids=["zip", "legacy"])
    @pytest.mark.parametrize("kind", list(INERT))
    def test_do_not_matter(self, tmp_path: Path, kind: str, form: Callable[[Any, Path], None]) -> None:
        path = tmp_path / "best.pt"
        form({"model": weights(), "extra": INERT[kind]}, path)
        assert read_checkpoint(path).state.keys() == weights().keys()

    @pytest.mark.parametrize("form", [torch.save, save_legacy], ids=["zip", "legacy"])
    def test_of_omegaconf(self, tmp_path: Path, form: Callable[[Any, Path], None]) -> None:
        omegaconf: Any = importlib.import_module("omegaconf")
        path = tmp_path / "best.pt"
        form({"model": weights(), "cfg": omegaconf.OmegaConf.create({"a": 1, "b": [1, {"c": "${a}"}]})}, path)
        assert read_checkpoint(path).state.keys() == weights().keys()


class TestArrays:
    def test_bytes_that_are_encoded_again_and_again(self, tmp_path: Path) -> None:
        path = tmp_path / "large.pt"
        call = b"c_codecs\nencode\nh\x01U\x06latin1\x86R"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02X\xe8\x03\x00\x00" + b"x" * 1000 + b"q\x01(" + 100 * call + b"l.")
        with pytest.raises(CheckpointError, match="without end"):
            read_checkpoint(path)

    @pytest.mark.parametrize("protocol", [2, 5])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_as_weights(self, tmp_path: Path, dtype: str, protocol: int) -> None:
        path = tmp_path / "arrays.pt"
        arrays = {key: np.asfortranarray(value.numpy().astype(dtype)) for key, value in weights().items()}
        arrays["mask_decoder.b"] = np.ones((2, 3), dtype)
        torch.save(arrays, path, pickle_protocol=protocol)
        state = read_checkpoint(path).state
        assert state.keys() == arrays.keys()
        for key, value in arrays.items():
            assert torch.equal(state[key], torch.from_numpy(value.astype(np.float32))), key

    def test_of_more_than_16_megabytes(self, tmp_path: Path) -> None:
        array = np.random.default_rng(0).random((2200, 2200)).astype(np.float32)
        for form in (torch.save, save_legacy):
            path = tmp_path / "arrays.pt"
            form({**weights(), "image_encoder.large": array}, path)
            assert torch.equal(read_checkpoint(path).state["image_encoder.large"], torch.from_numpy(array))

    @pytest.mark.parametrize("array", [np.ones(2, ">f4"), np.array(["a"]), np.ones(2, np.complex64)], ids=str)
    def test_of_other_things_are_no_weights(self, tmp_path: Path, array: Any) -> None:
        path = tmp_path / "arrays.pt"
        torch.save({**weights(), "image_encoder.odd": array}, path)
        assert read_checkpoint(path).state.keys() == weights().keys()
