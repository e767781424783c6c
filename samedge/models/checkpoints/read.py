"""Checkpoint files read as data: torch's two formats and safetensors, without executing anything that is in them.

What a file is follows from its first bytes, never from its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torch import Tensor

from samedge.errors import CheckpointError, StorageError, missing_extra, storage_errors
from samedge.models.checkpoints.state_dict import extract_state
from samedge.models.checkpoints.torch_files import read_pickled
from samedge.models.checkpoints.ultralytics import FOREIGN_ROOT, unpack_model
from samedge.storage.digest import sha256_file

_DOWNLOAD_AGAIN: Final = "Get the file again"
_MAX_HEADER: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a file.

    Attributes:
        state: Tensors by key, on the CPU: without wrappers and prefixes, floating point numbers float32 and finite.
        sha256: SHA-256 of the file in hex.
        path: The file.
        metadata: What the file says about itself: a safetensors file in its header, Ultralytics' in the model object
            (the names of `samedge.models.checkpoints.ultralytics`). Empty for other formats.
    """

    state: dict[str, Tensor]
    sha256: str
    path: Path
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the weights of a checkpoint.

    Reads what ``torch.save`` writes (also before torch 1.6) and safetensors. The weights may be wrapped as training
    scripts do it (state_dict.py), or lie in a model object. Objects beside the weights are read as inert stand-ins
    (pickled.py).

    Args:
        path: The file.

    Raises:
        UnsafeCheckpointError: The file asks for code to be executed; nothing was executed.
        CheckpointError: The file is damaged, or is no checkpoint, or its weights cannot be used.
        StorageError: The file cannot be read.
        MissingExtraError: It is a safetensors file and the package safetensors is not installed.
    """
    path = Path(path)
    head = _read_head(path)
    sha256 = sha256_file(path)
    content: object
    metadata: dict[str, str] = {}
    if _is_safetensors(head):
        content, metadata = _read_safetensors(path)
    else:
        _refuse_text(head, path)
        pickled = read_pickled(path)
        content = pickled.content
        if any(kind.startswith(FOREIGN_ROOT) for kind in pickled.kinds):
            content, metadata = unpack_model(content, path)
    return Checkpoint(extract_state(content, path), sha256, path, metadata)


def _read_head(path: Path) -> bytes:
    with storage_errors(path, "read"):
        if not path.exists():
            raise StorageError("there is no such file", where=path, cure="Check the path")
        if path.is_dir():
            bundle = (path / "manifest.json").is_file()
            raise CheckpointError(
                "this is a bundle, not a checkpoint" if bundle else "this is a folder, not a checkpoint",
                where=path,
                cure="A bundle is loaded as it is, without export" if bundle else "Name the file in it",
            )
        if not path.is_file():
            raise CheckpointError("this is not a regular file", where=path, cure="Name a checkpoint file")
        with path.open("rb") as file:
            head = file.read(512)
    if not head:
        raise CheckpointError("the file is empty", where=path, cure=_DOWNLOAD_AGAIN)
    return head


def _refuse_text(head: bytes, path: Path) -> None:
    """Say what a text file under a checkpoint's name usually is."""
    if head.startswith(b"version https://git-lfs"):
        what, cure = "this is a Git LFS pointer, not the checkpoint itself", "Fetch the file with: git lfs pull"
    elif head.lstrip()[:1] == b"<":
        what, cure = "this is a web page, not a checkpoint", "The download went wrong: get the file itself"
    elif all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        what, cure = "this is a text file, not a checkpoint", "Name a .pt, .pth or .safetensors file"
    else:
        return
    raise CheckpointError(what, where=path, cure=cure)


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise missing_extra("safetensors", "export", "reading a .safetensors file") from error
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"this safetensors file cannot be read: {error}", where=path, cure=_DOWNLOAD_AGAIN
        ) from error
