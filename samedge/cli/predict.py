"""``samedge predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from samedge.api import SAM
    from samedge.runtime.results import Results


def predict(
    model: Annotated[str, typer.Argument(help="Bundle, or checkpoint (exported once, into the cache).")],
    image: Annotated[str, typer.Argument(help="Image, or a folder of images: the prompts are used for each.")],
    point: Annotated[
        list[str] | None,
        typer.Option(help="X,Y or X,Y,LABEL in px; 1 inside, 0 outside. All points describe one object."),
    ] = None,
    box: Annotated[list[str] | None, typer.Option(help="X1,Y1,X2,Y2 in px. Each box is an object.")] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(help="Picture of the image's size, or low-resolution logits as .npy.")
    ] = None,
    each_point: Annotated[bool, typer.Option("--each-point", help="Each point is an object of its own.")] = False,
    multimask: Annotated[bool, typer.Option("--multimask", help="Three masks a prompt: part, object, group.")] = False,
    conf: Annotated[float | None, typer.Option(help="Drop masks whose predicted IoU is not above this.")] = None,
    backend: Annotated[str, typer.Option(help="What runs the graphs.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...: had, or an error.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write an overlay here; for a folder of images, a folder.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write masks (COCO RLE), boxes and scores here; - is stdout.")
    ] = None,
    txt: Annotated[
        Path | None, typer.Option(help="Append YOLO polygons here; for a folder of images, a folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Load a bundle that failed its parity check.")] = False,
) -> None:
    """Segments an image, or a folder of images, by prompts."""
    from samedge.api import SAM
    from samedge.cli.prompt_options import combine, parse_boxes, parse_points, read_mask
    from samedge.errors import SamedgeError, UsageError
    from samedge.runtime.sources import find_images

    points, labels = parse_points(point or [])
    prompts = combine(points, labels, parse_boxes(box or []), [read_mask(path) for path in mask or []], each_point)
    if not prompts:
        raise UsageError(
            "there is no prompt", cure="Give --point, --box or --mask; segmenting everything is not supported yet"
        )
    images = find_images(Path(image))
    many = Path(image).is_dir() or len(images) > 1
    sam = SAM(model, backend=backend, device=device, threads=threads, force=force)
    _open(sam)
    records: list[dict[str, Any]] = []
    failed: list[SamedgeError] = []
    for path in images:
        try:
            (results,) = sam.predict(path, **prompts, multimask_output=multimask, conf=conf)
            _write(results, prompts, path, many, save, txt)
        except SamedgeError as error:
            if not many:
                raise
            failed.append(error)
            sys.stderr.write(f"skipped: {error}\n")
            continue
        records.append(_record(results, path))
        if json != Path("-"):
            _show(results)
    if json is not None:
        _write_json({"model": sam.model, "backend": sam.predictor.backend, "device": sam.predictor.device,
                     "images": records}, json)  # fmt: skip
    if failed:
        raise UsageError(f"{len(failed)} of {len(images)} images were skipped", where=image, cure="See the lines above")


def _open(sam: SAM) -> None:
    """Opens the model; a checkpoint is exported first, with progress."""
    from samedge.api import is_bundle
    from samedge.cli.progress import shown_progress
    from samedge.export.cached import cached_bundle

    if not is_bundle(sam.model):
        with shown_progress() as progress:
            cached_bundle(sam.model, progress=progress)
    _ = sam.predictor


def _write(
    results: Results, prompts: dict[str, Any], path: Path, many: bool, save: Path | None, txt: Path | None
) -> None:
    from samedge.runtime.overlay import draw_prompts, write_picture

    if save is not None:
        shown = draw_prompts(results.plot(), prompts.get("points"), prompts.get("labels"), prompts.get("bboxes"))
        write_picture(save / f"{path.stem}.png" if many else save, shown)
    if txt is not None:
        results.save_txt(str(txt / f"{path.stem}.txt" if many else txt))


def _record(results: Results, path: Path) -> dict[str, Any]:
    height, width = results.orig_shape
    return {
        "image": str(path),
        "height": height,
        "width": width,
        "speed_ms": results.speed,
        "dropped_prompts": list(results.dropped),
        "objects": results.to_coco(),
    }


def _write_json(document: dict[str, Any], path: Path) -> None:
    import json

    from samedge.errors import storage_errors

    text = json.dumps(document, indent=2) + "\n"
    if path == Path("-"):
        sys.stdout.write(text)
        return
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _show(results: Results) -> None:
    from rich.console import Console

    from samedge.cli.tables import results_table

    Console().print(results_table(results))
