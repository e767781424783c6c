"""What takes long to make and is measured again and again: plain exports, Meta's decoder, bundles, inputs.

Each lies in the cache, in a folder named after all that it depends on: the weights, versions, and for what this package
writes its source. A new one takes the place of the old ones of the same name.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from samedge.benchmarks.measure.child import call_in_child
from samedge.errors import BenchmarkError, storage_errors
from samedge.models.checkpoints.weights import SEEDED, find_checkpoint
from samedge.storage.atomic import TEMPORARY_PREFIX, remove_leftovers, staged_folder
from samedge.storage.cache import cache_folder
from samedge.storage.digest import sha256_file

PACKAGE: Final = Path(__file__).parents[2]
PICTURES: Final = (PACKAGE / "assets" / "scene.jpg", PACKAGE / "assets" / "coffee.jpg")
"""A drawn scene, which the weights of sam_demo know, and a photograph."""

_SEEDS: Final = ("models/sam/**/*.py", "benchmarks/reference/**/*.py")
_SEEDED_STATES: Final = ("models/sam/**/*.py", "models/yolo/**/*.py")
_RELEASED: Final = {"sam_vit_b": "sam_b", "sam_vit_l": "sam_l", "sam_vit_h": "sam_h", "mobile_sam": "mobile_sam"}
_EXPORTER: Final = ("models/**/*.py", "export/**/*.py", "bundle/manifest.py", "options.py")
_DIGITS: Final = 16
_BUNDLE: Final = "bundle"


def weights_id(source: str) -> str:
    """Return what tells the weights of a source from others."""
    return source if source.startswith(SEEDED) else sha256_file(find_checkpoint(source))


def short_name(source: str) -> str:
    """Return a name for a source that can be part of a path."""
    return Path(source).stem.replace(":", "-")


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def source_digest(*patterns: str) -> str:
    """Return a digest of the files of this package that match, by their names and contents.

    Raises:
        BenchmarkError: A pattern matches nothing: results would outlive changes of the code that made them.
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
    """Makes artefacts, and finds those that were made.

    Attributes:
        folder: Where they lie.
        say: Called with a sentence before something is made, because that takes long.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "benchmarks")
    say: Callable[[str], None] = lambda _: None

    def plain_encoder(self, source: str, image_size: int) -> Path:
        """Return the folder with ``encoder.onnx``, the plain export of the reference package, and ``embedding.npy``.

        Raises:
            MissingExtraError: The reference package is not installed.
            BenchmarkError: It could not be made.
        """
        image = self.encoder_input(image_size)
        key = {
            "weights": weights_id(source),
            "image": image.parent.name,
            "versions": versions_of("torch", "onnx", "segment-anything", "mobilesam-mirror"),
            "source": source_digest(*_SEEDS),
        }

        def make(stage: Path) -> None:
            arguments = {"source": source, "image": str(image), "folder": str(stage)}
            call_in_child("samedge.benchmarks.reference.graphs:write_plain_encoder", arguments)

        return self._artefact(f"plain-encoder-{short_name(source)}", key, make)

    def meta_decoder(self, source: str) -> Path:
        """Return the folder with ``decoder.onnx``, Meta's, and ``decoder_low_res.onnx``, its part up to 256 x 256 px.

        Raises:
            MissingExtraError: A reference package is not installed.
            BenchmarkError: It could not be made.
        """
        key = {
            "weights": weights_id(source),
            "versions": versions_of("torch", "onnx", "segment-anything", "mobilesam-mirror"),
            "source": source_digest(*_SEEDS),
        }

        def make(stage: Path) -> None:
            arguments = {"source": source, "folder": str(stage)}
            call_in_child("samedge.benchmarks.reference.graphs:write_meta_decoder", arguments)

        return self._artefact(f"meta-decoder-{short_name(source)}", key, make)

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

        int8 is written whatever it does to masks and speed: both are what the benchmark is to find out.

        Args:
            source: Path, known name, or "seeded:NAME".
            precision: "fp32", "fp16", or "int8" for the encoder.
            calibrated: Static ranges, measured on `PICTURES`.
            form: How global attention is laid out.
            checked: Compared with the checkpoint, whose answers are kept for engines that are built from it.

        Raises:
            SamedgeError: As `samedge.export_model`.
        """
        key = {
            "weights": weights_id(source),
            "versions": versions_of("torch", "onnx", "onnxslim", "onnxruntime"),
            "source": source_digest(*_EXPORTER),
        }
        kind = ("-calibrated" if calibrated else "") + ("-checked" if checked else "")

        def make(stage: Path) -> None:
            arguments = {
                "source": source,
                "folder": str(stage),
                "precision": precision,
                "form": form,
                "checked": checked,
                "pictures": str(PACKAGE / "assets" / "*.jpg") if calibrated else None,
            }
            call_in_child(f"{__name__}:write_bundle", arguments)

        return self._artefact(f"bundle-{short_name(source)}-{precision}{kind}-{form}", key, make) / _BUNDLE

    def seeded_file(self, source: str) -> Path:
        """Return a file of random weights that torch reads, for peers: a state dict.

        SAM's has the keys of the reference package, and its name is that of the released file; a YOLO's has its batch
        norms folded into the convolutions.

        Args:
            source: "seeded:NAME".

        Raises:
            UsageError: There are no such weights.
        """
        name = source.removeprefix(SEEDED)
        key = {"weights": source, "versions": versions_of("torch"), "source": source_digest(*_SEEDED_STATES)}
        file = f"{_RELEASED.get(name, name)}.pt"

        def make(stage: Path) -> None:
            call_in_child(
                "samedge.benchmarks.reference.packages:write_seeded_state", {"name": name, "path": str(stage / file)}
            )

        return self._artefact(f"weights-{short_name(source)}", key, make) / file

    def encoder_input(self, image_size: int) -> Path:
        """Return the npy file of an encoder's input, float32 ``[1, 3, S, S]``: the first of `PICTURES`, normalised."""
        key = {"picture": sha256_file(PICTURES[0])}

        def make(stage: Path) -> None:
            arguments = {"picture": str(PICTURES[0]), "image_size": image_size, "folder": str(stage)}
            call_in_child("samedge.benchmarks.reference.graphs:write_encoder_input", arguments)

        return self._artefact(f"input-{image_size}", key, make) / "image.npy"

    def _artefact(self, name: str, key: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """Return the folder of an artefact; make it under a temporary name first, if it is not there."""
        digest = hashlib.sha256(msgspec.json.encode(key, order="deterministic")).hexdigest()[:_DIGITS]
        target = self.folder / name / digest
        if target.is_dir():
            return target
        self.say(f"Making {name.replace('-', ' ')}")
        with staged_folder(target, replace=False) as stage:
            make(stage)
            with storage_errors(target):
                remove_leftovers(target)
                for old in target.parent.iterdir():
                    if not old.name.startswith(TEMPORARY_PREFIX) and old != target:
                        shutil.rmtree(old, ignore_errors=True)
        return target


def write_bundle(
    source: str, folder: str, precision: str, form: str, pictures: str | None, *, checked: bool = False
) -> None:
    """Export a bundle into a folder; unchecked, unless that is asked for."""
    from samedge.export.exporter import export_model

    arguments: dict[str, Any] = {"precision": precision, "form": form, "calib": pictures}
    export_model(source, output=Path(folder) / _BUNDLE, check=checked, **arguments)


def graph_bytes(folder: Path) -> int:
    """Return the size of an exported graph and its weights: of all files in a folder but arrays."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.suffix != ".npy")
