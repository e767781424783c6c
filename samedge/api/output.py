"""Output of calls: images, labels and crops, written where Ultralytics writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samedge.api.keywords import taken_out
from samedge.runtime.image.sources import free_name, safe_stem
from samedge.runtime.results.overlay import write_image
from samedge.runtime.results.results import Results
from samedge.runtime.results.video_file import VideoFile
from samedge.storage.files import storage_errors


@dataclass(slots=True)
class Runs:
    """Folders of one model's runs: calls with the same project and name share a folder."""

    task: Callable[[], str]
    _folders: dict[tuple[Any, ...], Path] = field(default_factory=dict)

    def folder(self, project: str | None, name: str | None, exist_ok: bool) -> Path:
        """Return ``runs/<task>/predict``, or the first of ``predict-2``, ``predict-3``, ... that does not exist."""
        key = project, name, exist_ok
        if key not in self._folders:
            base = Path(project or "")
            parent = base if base.is_absolute() else Path("runs", self.task()) / base
            path, number = parent / (name or "predict"), 2
            while path.exists() and not exist_ok:
                path, number = parent / f"{name or 'predict'}-{number}", number + 1
            with storage_errors(path):
                path.mkdir(parents=True, exist_ok=True)
            self._folders[key] = path.resolve()
        return self._folders[key]

    def deliver(self, results: Iterator[Results], keywords: dict[str, Any]) -> Iterator[Results]:
        """Take the keywords of output out of `keywords`; return the results, which are written as they are read.

        Images without a path get that of Ultralytics: "image0.jpg".
        """
        chosen = taken_out(keywords)
        results = (_named(found, number) for number, found in enumerate(results))
        if not any(chosen.get(name) for name in ("save", "save_txt", "save_crop", "show")):
            return results
        return self._written(results, chosen)

    def _written(self, results: Iterator[Results], chosen: Mapping[str, Any]) -> Iterator[Results]:
        writing = [name for name in ("save", "save_txt", "save_crop") if chosen.get(name)]
        taken: set[str] = set()
        with ExitStack() as open_files:
            video: VideoFile | None = None
            for found in results:
                path = str(found.path)
                if video is None or found.frame is None or video.source != path:
                    open_files.close()  # a video is whole once the next file begins
                    stem = free_name(safe_stem(path), taken)
                    video = None
                if writing:
                    folder = self.folder(chosen.get("project"), chosen.get("name"), bool(chosen.get("exist_ok")))
                    found.save_dir = str(folder)
                    if found.frame is not None and video is None:
                        video = open_files.enter_context(VideoFile(folder / f"{stem}.mp4", path))
                    _write(found, folder, stem, chosen, video)
                if chosen.get("show"):
                    found.show(**_look(chosen))
                yield found


def _named(found: Results, number: int) -> Results:
    found.path = found.path or f"image{number}.jpg"
    return found


def _write(found: Results, folder: Path, stem: str, chosen: Mapping[str, Any], video: VideoFile | None) -> None:
    one = stem if found.frame is None else f"{stem}_{found.frame}"
    if chosen.get("save_txt"):
        labels = folder / "labels" / f"{one}.txt"
        with storage_errors(labels):
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.unlink(missing_ok=True)  # lines are appended: those of an earlier call go
        found.save_txt(labels, save_conf=bool(chosen.get("save_conf")))
    if chosen.get("save_crop"):
        found.save_crop(folder / "crops", f"{one}.jpg")
    if chosen.get("save") and video is None:
        found.save(folder / f"{stem}.jpg", **_look(chosen))
    elif chosen.get("save") and video is not None:
        drawn = found.plot(**_look(chosen))
        video.write(drawn, found.frame_rate)
        if chosen.get("save_frames"):
            write_image(folder / f"{stem}_frames" / f"{one}.jpg", drawn)


def _look(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "line_width": chosen.get("line_width"),
        "boxes": chosen.get("show_boxes", True),
        "conf": chosen.get("show_conf", True),
        "labels": chosen.get("show_labels", True),
    }
