"""The manifest of a run: one JSON line an image, appended when its labels are in place.

The first line says with which settings; a run with others must not go on with it. A line that was cut off when the
program was killed is removed when the manifest is opened again. Where an image has several lines, the last one counts.
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
from samedge.errors import ImageError, StorageError, UsageError, storage_errors
from samedge.storage.atomic import write_whole
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
    """Where the line of an image begins, and what its file was like."""

    offset: int
    bytes: int
    mtime_ns: int
    label: str | None
    failed: bool


class Journal(Closing):
    """The manifest of one output folder, open for appending; one process at a time. May be used from several threads.

    What is kept in memory is a name, a place and a few numbers for each image.

    Args:
        folder: The output folder; made if it is not there.
        settings: With which images are annotated, as JSON.
        restart: Begin anew, and remove the labels that the manifest knows of.

    Attributes:
        path: The file.
        lock: Held while an image is finished; for what else is counted then.

    Raises:
        UsageError: The manifest there is of other settings; or another process is writing it.
        StorageError: The file system said no, or the file there is no manifest.
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
        busy = UsageError(
            "another run is annotating into this folder", where=folder, cure="Wait for it, or choose another"
        )
        try:
            claim(self._file, busy)
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
                "this file is no manifest of samedge annotate", where=self.path, cure="Choose another output folder"
            ) from error
        if found != wanted:
            raise UsageError(
                f"the images here were annotated with other settings: {_difference(found.settings, wanted.settings)}",
                where=self._folder,
                cure="Go on with the same ones, choose another output folder, or begin anew with restart=True "
                "(--restart), which removes the labels that were written",
            )
        self._index(len(first))

    def _index(self, offset: int) -> None:
        with storage_errors(self.path, "read"):
            for line in self._file:
                if not line.endswith(b"\n"):
                    break
                try:
                    self._note(offset, msgspec.json.decode(line, type=ImageKey))
                except msgspec.DecodeError as error:
                    raise StorageError(
                        f"line {len(self._done) + 2} of the manifest is damaged",
                        where=self.path,
                        cure="Begin anew with restart=True (--restart)",
                    ) from error
                offset += len(line)
        with storage_errors(self.path):
            self._file.truncate(offset)

    def _note(self, offset: int, key: ImageKey) -> None:
        self._done[key.image] = _Done(offset, key.bytes, key.mtime_ns, key.label, key.status == "failed")

    def _forget(self) -> None:
        """Remove labels that were written by this manifest, and its lines."""
        with storage_errors(self.path):
            self._file.seek(0)
            for line in self._file:
                label: str | None = None
                with suppress(msgspec.DecodeError):
                    label = msgspec.json.decode(line, type=ImageKey).label
                if label is not None:
                    (self._folder / label).unlink(missing_ok=True)
            self._file.truncate(0)

    def __len__(self) -> int:
        """Number of images that have a line."""
        return len(self._done)

    @property
    def images(self) -> list[str]:
        """Name of the images that have a line and did not fail."""
        return [image for image, done in self._done.items() if not done.failed]

    def is_done(self, image: str, size: int, mtime_ns: int) -> bool:
        """Whether an image was done, has not changed since, and has its labels still.

        Args:
            image: Its name.
            size: Of its file, bytes.
            mtime_ns: When it was changed.
        """
        done = self._done.get(image)
        if done is None or done.failed or (done.bytes, done.mtime_ns) != (size, mtime_ns):
            return False
        return done.label is None or (self._folder / done.label).is_file()

    def finish(self, record: ImageRecord, labels: str) -> bool:
        """Put labels in place, and then says that the image is done; False if the manifest was closed before.

        Args:
            record: Of the image.
            labels: Content of its file of labels, `record.label`.

        Raises:
            ImageError: There are other labels in that place, and they are not from this manifest.
            StorageError: The file system said no.
        """
        line = msgspec.json.encode(record) + b"\n"
        with self.lock:
            if self._file.closed:
                return False  # a thread that was left behind when the run ended
            before = self._done.get(record.image)
            old = None if before is None else before.label
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
            self._note(offset, key)
            return True

    def _write_labels(self, label: str, content: bytes, *, own: bool) -> None:
        path = self._folder / label
        with storage_errors(path):
            # The same content was written by a run that was killed before it could say so.
            foreign = not own and path.exists() and path.read_bytes() != content
        if foreign:
            raise ImageError(
                f"there are labels already, {label}, that this manifest did not write",
                cure="Choose another output folder, or remove them",
            )
        write_whole(path, content)

    def records(self, images: list[str]) -> Iterator[ImageRecord]:
        """Yield what is kept of some images, in their order.

        Raises:
            StorageError: The manifest cannot be read.
        """
        with storage_errors(self.path, "read"), self.path.open("rb") as file:
            for image in images:
                file.seek(self._done[image].offset)
                yield msgspec.json.decode(file.readline(), type=ImageRecord)

    def close(self) -> None:
        """End writing. May be called twice."""
        with self.lock:
            self._file.close()


def _difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} was {_shown(found.get(name))} and is {_shown(wanted.get(name))}" for name in names)


def _shown(value: object) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
