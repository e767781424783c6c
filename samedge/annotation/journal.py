"""The manifest of a run: one JSON line per image, appended once its labels are written.

The first line records the settings; a run with other settings cannot resume. A line cut off when the program was killed
is removed when the manifest is opened again. If an image has several lines, the last one counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final

import msgspec

from samedge.annotation.records import ImageKey, ImageRecord
from samedge.errors import ImageError, StorageError, UsageError
from samedge.storage.atomic import write_whole
from samedge.storage.files import storage_errors
from samedge.storage.locks import claim
from samedge.types import Closing

JOURNAL_NAME: Final = "annotate.jsonl"
SCHEMA: Final = 1


class Header(msgspec.Struct, frozen=True):
    """The first line."""

    annotate: int
    settings: dict[str, object]


@dataclass(frozen=True, slots=True)
class _Done:
    """Offset of an image's line, and its key."""

    offset: int
    key: ImageKey


class Journal(Closing):
    """The manifest of one output folder, open for appending by one process. It may be used from several threads.

    Only a name, an offset and a few numbers per image are held in memory. `settings` are all settings that the labels
    depend on, as JSON values; `restart` removes the labels listed in the manifest. `lock` is held while an image is
    finished, and also guards the caller's counters.

    Raises:
        UsageError: The existing manifest has other settings, or another process is writing it.
        StorageError: The file cannot be read or written, or is not a manifest.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object], *, restart: bool = False) -> None:
        self.path = folder / JOURNAL_NAME
        self._folder = folder
        self.lock = Lock()
        self._done: dict[str, _Done] = {}
        wanted = Header(SCHEMA, msgspec.json.decode(msgspec.json.encode(dict(settings)), type=dict[str, object]))
        with storage_errors(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("a+b")
        cure = "Wait for it, or choose another folder"
        try:
            claim(self._file, UsageError("another run is writing to this folder", where=folder, cure=cure))
            if restart:
                self._forget()
            self._open(wanted)
        except BaseException:
            self._file.close()
            raise

    def _open(self, wanted: Header) -> None:
        with storage_errors(self.path, "read"):
            self._file.seek(0)
            first = self._file.readline()
        if not first.endswith(b"\n"):  # new, or killed while the first line was written
            with storage_errors(self.path):
                self._file.truncate(0)
                self._file.write(msgspec.json.encode(wanted) + b"\n")
                self._file.flush()
            return
        try:
            found = msgspec.json.decode(first, type=Header)
        except msgspec.DecodeError as error:
            raise StorageError(
                "not a manifest of samedge annotate", where=self.path, cure="Choose another output folder"
            ) from error
        if found != wanted:
            raise UsageError(
                f"the images here were annotated with other settings: {_difference(found.settings, wanted.settings)}",
                where=self._folder,
                cure="Use the same settings, choose another output folder, or start over with restart=True "
                "(--restart), which removes the existing labels",
            )
        self._index(len(first))

    def _index(self, offset: int) -> None:
        with storage_errors(self.path, "read"):
            for line in self._file:
                if not line.endswith(b"\n"):
                    break
                try:
                    key = msgspec.json.decode(line, type=ImageKey)
                except msgspec.DecodeError as error:
                    raise StorageError(
                        f"line {len(self._done) + 2} of the manifest is damaged",
                        where=self.path,
                        cure="Start over with restart=True (--restart)",
                    ) from error
                self._done[key.image] = _Done(offset, key)
                offset += len(line)
        with storage_errors(self.path):
            self._file.truncate(offset)

    def _forget(self) -> None:
        """Remove the labels listed in the manifest, and its lines."""
        with storage_errors(self.path):
            self._file.seek(0)
            for line in self._file:
                label: str | None = None
                with suppress(msgspec.DecodeError):
                    label = msgspec.json.decode(line, type=ImageKey).label
                if label is not None:
                    (self._folder / label).unlink(missing_ok=True)
            self._file.truncate(0)

    def has_label(self, label: str) -> bool:
        """Return True if labels of an image were written under this path."""
        return any(done.key.label == label for done in self._done.values())

    def __len__(self) -> int:
        """Return the number of images that have a line."""
        return len(self._done)

    @property
    def images(self) -> list[str]:
        """Names of the images that have a line and did not fail."""
        return [image for image, done in self._done.items() if done.key.status != "failed"]

    def is_done(self, image: str, size: int, mtime_ns: int) -> bool:
        """Return True if an image is done, its file is unchanged, and its labels still exist."""
        key = self._done[image].key if image in self._done else None
        if key is None or key.status == "failed" or (key.bytes, key.mtime_ns) != (size, mtime_ns):
            return False
        return key.label is None or (self._folder / key.label).is_file()

    def finish(self, record: ImageRecord, labels: str) -> bool:
        """Write the labels of an image to `record.label`, then its line; return False if the manifest is closed.

        Raises:
            ImageError: The label file exists and this manifest did not write it.
            StorageError: A file cannot be written.
        """
        line = msgspec.json.encode(record) + b"\n"
        with self.lock:
            if self._file.closed:
                return False  # the calling thread outlived the run
            old = self._done[record.image].key.label if record.image in self._done else None
            if record.label is not None:
                self._write_labels(record.label, labels.encode(), own=record.label == old)
            if old not in (None, record.label):
                with storage_errors(self._folder / str(old)):
                    (self._folder / str(old)).unlink(missing_ok=True)
            with storage_errors(self.path):
                offset = self._file.seek(0, os.SEEK_END)
                self._file.write(line)
                self._file.flush()
            key = ImageKey(record.image, record.status, record.bytes, record.mtime_ns, record.label)
            self._done[record.image] = _Done(offset, key)
            return True

    def _write_labels(self, label: str, content: bytes, *, own: bool) -> None:
        path = self._folder / label
        with storage_errors(path):
            # Identical content comes from a run killed between writing the labels and the line.
            foreign = not own and path.exists() and path.read_bytes() != content
        if foreign:
            raise ImageError(
                f"the label file {label} exists and is not listed in the manifest",
                cure="Choose another output folder, or remove the file",
            )
        write_whole(path, content)

    def records(self, images: list[str]) -> Iterator[ImageRecord]:
        """Yield the records of the given images, in their order."""
        with storage_errors(self.path, "read"), self.path.open("rb") as file:
            for image in images:
                file.seek(self._done[image].offset)
                yield msgspec.json.decode(file.readline(), type=ImageRecord)

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._file.close()


def _difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} was {_shown(found.get(name))} and is {_shown(wanted.get(name))}" for name in names)


def _shown(value: object) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
