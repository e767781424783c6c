"""Cached inputs of the benchmarks that take long to make: plain exports, Meta's decoder, bundles, encoder inputs.

Each is in the cache, in a folder named by a digest of everything it depends on: weights, versions and, for files that
this package writes, its source. A new one replaces older ones of the same name.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from samedge.benchmarks.measure.child import call_in_child
from samedge.errors import BenchmarkError
from samedge.models.checkpoints.weights import SEEDED, find_checkpoint
from samedge.storage.atomic import TEMPORARY_PREFIX, remove_leftovers, staged_folder
from samedge.storage.files import cache_folder, sha256_file, storage_errors

PACKAGE: Final = Path(__file__).parents[2]
IMAGES: Final = (PACKAGE / "assets" / "scene.jpg", PACKAGE / "assets" / "coffee.jpg")
"""A drawn scene, like those that sam_demo was trained on, and a photograph."""

_GRAPHS: Final = "samedge.benchmarks.reference.graphs"
_REFERENCE_PACKAGES: Final = ("torch", "onnx", "segment-anything", "mobilesam-mirror")
_SEEDS: Final = ("models/sam/**/*.py", "benchmarks/reference/**/*.py")
_SEEDED_STATES: Final = ("models/sam/**/*.py", "models/yolo/**/*.py")
_RELEASED: Final = {"sam_vit_b": "sam_b", "sam_vit_l": "sam_l", "sam_vit_h": "sam_h", "mobile_sam": "mobile_sam"}
_EXPORTER: Final = ("models/**/*.py", "export/**/*.py", "bundle/manifest.py", "options.py")
_DIGITS: Final = 16
_BUNDLE: Final = "bundle"


def weights_id(source: str) -> str:
    """Return an identifier of the weights of a source."""
    return source if source.startswith(SEEDED) else sha256_file(find_checkpoint(source))


def short_name(source: str) -> str:
    """Return a name for a source that is valid in a path."""
    return Path(source).stem.replace(":", "-")


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@cache
def source_digest(*patterns: str) -> str:
    """Return a digest of the names and contents of the package's files that match the patterns.

    Raises:
        BenchmarkError: A pattern matches no file, so results would outlive changes of the code behind them.
    """
    digest = hashlib.sha256()
    paths: set[Path] = set()
    for pattern in patterns:
        found = set(PACKAGE.glob(pattern))
        if not found:
            raise BenchmarkError(f"no source file matches {pattern!r}", cure="Correct the patterns in this module")
        paths |= found
    for path in sorted(paths):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Artefacts:
    """Cache of artefacts, made on first use; `say` is called before one is made, because that takes long."""

    folder: Path = field(default_factory=lambda: cache_folder() / "benchmarks")
    say: Callable[[str], None] = lambda _: None

    def plain_encoder(self, source: str, image_size: int) -> Path:
        """Return the folder with ``encoder.onnx``, the plain export of the reference package, and ``embedding.npy``."""
        image = self.encoder_input(image_size)
        key = {**_key(source, _REFERENCE_PACKAGES, _SEEDS), "image": image.parent.name}
        return self._artefact(
            f"plain-encoder-{short_name(source)}",
            key,
            f"{_GRAPHS}:write_plain_encoder",
            source=source,
            image=str(image),
        )

    def meta_decoder(self, source: str) -> Path:
        """Return the folder with Meta's ``decoder.onnx``, and ``decoder_low_res.onnx``, its part up to 256 x 256 px."""
        key = _key(source, _REFERENCE_PACKAGES, _SEEDS)
        return self._artefact(f"meta-decoder-{short_name(source)}", key, f"{_GRAPHS}:write_meta_decoder", source=source)

    def bundle(
        self,
        source: str,
        *,
        precision: str = "fp32",
        calibrated: bool = False,
        form: str = "chunked",
        checked: bool = False,
    ) -> Path:
        """Return the bundle of a checkpoint, native scheme.

        int8 is written whatever its effect on masks and speed, because that is what the benchmark measures.

        Args:
            source: Path, known name, or "seeded:NAME".
            precision: "fp32", "fp16", or "int8" for the encoder.
            calibrated: Use static ranges, measured on `IMAGES`.
            form: Form of global attention.
            checked: Compare with the checkpoint, and store its outputs to verify engines.
        """
        kind = ("-calibrated" if calibrated else "") + ("-checked" if checked else "")
        folder = self._artefact(
            f"bundle-{short_name(source)}-{precision}{kind}-{form}",
            _key(source, ("torch", "onnx", "onnxslim", "onnxruntime"), _EXPORTER),
            f"{__name__}:write_bundle",
            source=source,
            precision=precision,
            form=form,
            checked=checked,
            calibration=str(PACKAGE / "assets" / "*.jpg") if calibrated else None,
        )
        return folder / _BUNDLE

    def seeded_file(self, source: str) -> Path:
        """Return a state dict file of random weights ("seeded:NAME") for torch, for peers.

        SAM's uses the keys of the reference package and the name of the released file; a YOLO model's has its batch
        norms folded into the convolutions.
        """
        name = source.removeprefix(SEEDED)
        file = f"{_RELEASED.get(name, name)}.pt"
        target = "samedge.benchmarks.reference.packages:write_seeded_state"
        key = _key(source, ("torch",), _SEEDED_STATES)
        return self._artefact(f"weights-{short_name(source)}", key, target, name=name, file=file) / file

    def encoder_input(self, image_size: int) -> Path:
        """Return the npy file of an encoder's input, float32 ``[1, 3, S, S]``: the first of `IMAGES`, normalised."""
        key, image = {"image": sha256_file(IMAGES[0])}, str(IMAGES[0])
        target = f"{_GRAPHS}:write_encoder_input"
        return self._artefact(f"input-{image_size}", key, target, image=image, image_size=image_size) / "image.npy"

    def _artefact(self, name: str, key: dict[str, Any], target: str, /, **arguments: Any) -> Path:
        """Return the folder of an artefact; if it is not there, a child process makes it under a temporary name."""
        digest = hashlib.sha256(msgspec.json.encode(key, order="deterministic")).hexdigest()[:_DIGITS]
        folder = self.folder / name / digest
        if folder.is_dir():
            return folder
        self.say(f"Making {name.replace('-', ' ')}")
        with staged_folder(folder, replace=False) as stage:
            call_in_child(target, {**arguments, "folder": str(stage)})
            with storage_errors(folder):
                remove_leftovers(folder)
                for old in folder.parent.iterdir():
                    if not old.name.startswith(TEMPORARY_PREFIX) and old != folder:
                        shutil.rmtree(old, ignore_errors=True)
        return folder


def _key(source: str, packages: tuple[str, ...], patterns: tuple[str, ...]) -> dict[str, Any]:
    """Return what an artefact depends on: weights, versions and source."""
    return {"weights": weights_id(source), "versions": versions_of(*packages), "source": source_digest(*patterns)}


def write_bundle(
    source: str, folder: str, precision: str, form: str, calibration: str | None, *, checked: bool = False
) -> None:
    """Export a bundle into a folder."""
    from samedge.export.exporter import export_model

    arguments: dict[str, Any] = {"precision": precision, "form": form, "calib": calibration}
    export_model(source, output=Path(folder) / _BUNDLE, check=checked, **arguments)


def graph_bytes(folder: Path) -> int:
    """Return the total size of a folder's files except arrays: an exported graph and its weights."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.suffix != ".npy")
