"""Checkpoint files read as data: torch's two formats and safetensors, without executing anything that is in them.

What a file is follows from its first bytes, never from its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torch import Tensor

from samedge.errors import CheckpointError, StorageError, missing_extra
from samedge.models.checkpoints.hugging_face import is_hugging_face, rename
from samedge.models.checkpoints.lora import merge_lora
from samedge.models.checkpoints.pickled import mapping
from samedge.models.checkpoints.state_dict import extract_parts, extract_state
from samedge.models.checkpoints.torch_files import read_pickled
from samedge.models.checkpoints.ultralytics import FOREIGN_ROOT, unpack_model
from samedge.models.checkpoints.weights import checkpoint_digest, checkpoint_files, find_checkpoint
from samedge.storage.files import storage_errors

_DOWNLOAD_AGAIN: Final = "Get the file again"
_MAX_HEADER: Final = 100_000_000
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Choices that a file may leave open.

    Attributes:
        weights_key: Name of the model that counts, in a file of several, such as "state_dict_ema" or "teacher".
        lora_scale: Factor of the product of LoRA's matrices, ``lora_alpha / r``; None for what the file tells.
        base: Checkpoint whose weights a file without an image encoder is laid over.
    """

    weights_key: str | None = None
    lora_scale: float | None = None
    base: str | Path | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a file.

    Attributes:
        state: Tensors by key, on the CPU: without wrappers and prefixes, floating point numbers float32 and finite.
        sha256: SHA-256 of the file in hex.
        path: The file.
        metadata: What the file says about itself: a safetensors file in its header, Ultralytics' in the model object
            (the names of `samedge.models.checkpoints.ultralytics`). Empty for other formats.
        notes: Sentences about what was left out, merged or taken from elsewhere.
    """

    state: dict[str, Tensor]
    sha256: str
    path: Path
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, options: ReadOptions = ReadOptions()) -> Checkpoint:
    """Read the weights of a checkpoint.

    Reads what ``torch.save`` writes (also before torch 1.6) and safetensors. The weights may be wrapped as training
    scripts do it (roots.py, state_dict.py), or lie in a model object. Objects beside the weights are read as inert
    stand-ins (pickled.py), and LoRA is merged (lora.py).

    Args:
        path: The file; or a folder as transformers' ``save_pretrained`` writes it, or its index of shards.
        options: What it may leave open.

    Raises:
        UnsafeCheckpointError: The file asks for code to be executed; nothing was executed.
        CheckpointError: The file is damaged, or is no checkpoint, or its weights cannot be used.
        StorageError: The file cannot be read.
        MissingExtraError: It is a safetensors file and the package safetensors is not installed.
        UsageError: There is no model of the name that was asked for.
    """
    path = Path(path)
    files = checkpoint_files(path) or (path,)
    content, metadata = _read_content(files[0])
    for shard in files[1:]:
        content = {**mapping(content), **mapping(_read_content(shard)[0])}
    sha256 = checkpoint_digest(path)
    notes = []
    if options.base is None:
        extracted = extract_state(content, path, options.weights_key)
        state = extracted.state
        if extracted.left_out:
            notes.append(f"left out of the checkpoint, as no part of the model: {_list(extracted.left_out)}")
    else:
        base = read_checkpoint(find_checkpoint(options.base))
        own = extract_parts(content, path)
        if not own:
            raise CheckpointError("there is no part of a SAM in this file", where=path, cure="Leave --base out")
        state = {**base.state, **(rename(own, files[0]) if is_hugging_face(own) else own)}
        notes += [f"weights that it lacks are those of {base.path.name} (SHA-256 {base.sha256[:16]}…)", *base.notes]
    if is_hugging_face(state):
        state = rename(state, files[0])
    state, merged = merge_lora(state, files[0], options.lora_scale)
    return Checkpoint(state, sha256, path, metadata, (*notes, merged) if merged else tuple(notes))


def _list(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _read_content(path: Path) -> tuple[object, dict[str, str]]:
    """Return what is in a file, and what it says about itself."""
    head = _read_head(path)
    if _is_safetensors(head):
        return _read_safetensors(path)
    _refuse_text(head, path)
    pickled = read_pickled(path)
    if any(kind.startswith(FOREIGN_ROOT) for kind in pickled.kinds):
        return unpack_model(pickled.content, path)
    return pickled.content, {}


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
