"""Output of calls: images, labels and crops, written where Ultralytics writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samedge.api.keywords import taken_out
from samedge.runtime.results.results import Results
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
        """Take the keywords of output out of `keywords`; return the results, which are written as they are read."""
        chosen = taken_out(keywords)
        if not any(chosen.get(name) for name in ("save", "save_txt", "save_crop", "show")):
            return results
        return self._written(results, chosen)

    def _written(self, results: Iterator[Results], chosen: Mapping[str, Any]) -> Iterator[Results]:
        taken: set[str] = set()
        for number, found in enumerate(results):
            stem = _free_stem(Path(found.path or f"image{number}.jpg").stem, taken)
            if any(chosen.get(name) for name in ("save", "save_txt", "save_crop")):
                folder = self.folder(chosen.get("project"), chosen.get("name"), bool(chosen.get("exist_ok")))
                found.save_dir = str(folder)
                _write(found, folder, stem, chosen)
            if chosen.get("show"):
                found.show(**_look(chosen))
            yield found


def _write(found: Results, folder: Path, stem: str, chosen: Mapping[str, Any]) -> None:
    if chosen.get("save_txt"):
        labels = folder / "labels" / f"{stem}.txt"
        with storage_errors(labels):
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.unlink(missing_ok=True)  # lines are appended: those of an earlier call go
        found.save_txt(labels, save_conf=bool(chosen.get("save_conf")))
    if chosen.get("save_crop"):
        found.save_crop(folder / "crops", f"{stem}.jpg")
    if chosen.get("save"):
        found.save(folder / f"{stem}.jpg", **_look(chosen))


def _look(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "line_width": chosen.get("line_width"),
        "boxes": chosen.get("show_boxes", True),
        "conf": chosen.get("show_conf", True),
        "labels": chosen.get("show_labels", True),
    }


def _free_stem(stem: str, taken: set[str]) -> str:
    """Return a name that no earlier image of the call has: bus, bus-2, ..."""
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return name
