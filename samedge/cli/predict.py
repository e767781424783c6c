"""``samedge predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from samedge.runtime.results.results import Results
    from samedge.runtime.results.video_file import VideoFile

VALUE_RANGE_HELP: Final = (
    "Values that become black and white: LOW,HIGH; full, for all of the integer type; or image, for each image's own."
)
_EVERYTHING: Final[Any] = {"rich_help_panel": "Segment everything"}
_YOLO: Final[Any] = {"rich_help_panel": "YOLO and FastSAM"}


def predict(
    model: Annotated[str, typer.Argument(help="Bundle, folder of ONNX graphs, or checkpoint (exported once).")],
    image: Annotated[
        str,
        typer.Argument(
            help="Image, video, folder, pattern, list (.txt), address, camera (0), or - for standard input."
        ),
    ],
    point: Annotated[
        list[str] | None,
        typer.Option(help="X,Y or X,Y,LABEL in px; 1 inside, 0 outside. Repeated points describe one object."),
    ] = None,
    box: Annotated[list[str] | None, typer.Option(help="X1,Y1,X2,Y2 in px. Each repetition is one object.")] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(help="Mask image of the same size, or low-resolution logits as .npy.")
    ] = None,
    each_point: Annotated[bool, typer.Option("--each-point", help="Treat each point as a separate object.")] = False,
    multimask: Annotated[
        bool, typer.Option("--multimask", help="Give three masks per prompt: part, object, group.")
    ] = False,
    conf: Annotated[float | None, typer.Option(help="Drop masks unless their predicted IoU exceeds this.")] = None,
    backend: Annotated[str, typer.Option(help="Backend of the graphs: see samedge info --backends.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; an error if unavailable.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write an overlay here; for a folder of images, a folder; for a video, an .mp4.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write masks (COCO RLE), boxes and scores here; - for stdout.")
    ] = None,
    json_form: Annotated[
        str, typer.Option(help="samedge, or coco: a list of results as pycocotools evaluates them.")
    ] = "samedge",
    txt: Annotated[
        Path | None, typer.Option(help="Append YOLO polygons here; for a folder of images, a folder.")
    ] = None,
    vid_stride: Annotated[int, typer.Option(min=1, help="Of a video, segment only each n-th frame.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Load a bundle that failed its parity check.")] = False,
    value_range: Annotated[str | None, typer.Option(help=VALUE_RANGE_HELP)] = None,
    mode: Annotated[
        str | None, typer.Option(help="exact: Meta's masks. fast: most of them, from far fewer points.", **_EVERYTHING)
    ] = None,
    points_per_side: Annotated[
        int | None, typer.Option(help="Points along each side of the grid; default 32.", **_EVERYTHING)
    ] = None,
    pred_iou_thresh: Annotated[
        float | None,
        typer.Option(help="Drop masks unless their predicted IoU exceeds this; default 0.88.", **_EVERYTHING),
    ] = None,
    stability_score_thresh: Annotated[
        float | None, typer.Option(help="Minimum stability score of a mask; default 0.95.", **_EVERYTHING)
    ] = None,
    box_nms_thresh: Annotated[
        float | None,
        typer.Option(help="IoU with a better mask's box above which a mask is dropped; default 0.7.", **_EVERYTHING),
    ] = None,
    min_mask_region_area: Annotated[
        int | None, typer.Option(help="Remove parts and holes of fewer px; default 0.", **_EVERYTHING)
    ] = None,
    crop_n_layers: Annotated[
        int | None, typer.Option(help="Layers of crops (4, then 16, ...) to segment as well; default 0.", **_EVERYTHING)
    ] = None,
    time_budget_ms: Annotated[
        float | None, typer.Option(help="Fast mode: time limit of the search, ms.", **_EVERYTHING)
    ] = None,
    iou: Annotated[
        float | None, typer.Option(help="IoU with a better box above which a box is dropped; default 0.7.", **_YOLO)
    ] = None,
    max_det: Annotated[
        int | None, typer.Option(help="Maximum number of objects per image; default 300.", **_YOLO)
    ] = None,
    classes: Annotated[
        list[int] | None, typer.Option("--class", help="Number of a class to keep. Can be repeated.", **_YOLO)
    ] = None,
    agnostic_nms: Annotated[
        bool, typer.Option("--agnostic-nms", help="Apply non-maximum suppression across classes.", **_YOLO)
    ] = False,
    imgsz: Annotated[int | None, typer.Option(help="Side of the input, px.", **_YOLO)] = None,
) -> None:
    """Segment an image, or each of a folder or video, by prompts; without prompts, segment everything.

    YOLO and FastSAM models detect objects; prompts select among them.

    All points of one command describe one object, together with the box if there is one. Several boxes are several
    objects, as are several points with --each-point. Masks follow the order of the prompts. In a folder, an unusable
    image is reported on stderr and skipped, and the exit status is 1.
    """
    from samedge.bundle.archive import model_family
    from samedge.cli.family import OpenOptions, PredictRequest, command_of
    from samedge.cli.prompt_options import (
        check_request,
        combine,
        given_options,
        parse_boxes,
        parse_points,
        parse_value_range,
        read_mask,
    )
    from samedge.errors import SamedgeError, UsageError
    from samedge.runtime.image.sources import distinct_stems, each_source, images_of, safe_stem

    if json_form not in ("samedge", "coco"):
        raise UsageError(f"unknown form {json_form!r}", where="--json-form", cure="Choose samedge or coco")
    points, labels = parse_points(point or [])
    boxes = parse_boxes(box or [])
    prompts = combine(points, labels, boxes, [read_mask(path) for path in mask or []], each_point)
    everything = given_options(
        mode=mode, points_per_side=points_per_side, pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh, box_nms_thresh=box_nms_thresh,
        min_mask_region_area=min_mask_region_area, crop_n_layers=crop_n_layers, time_budget_ms=time_budget_ms,
    )  # fmt: skip
    check_request(prompts, everything, multimask=multimask)
    sources = list(each_source(image))
    stems = distinct_stems([Path(f"{safe_stem(str(source))}{Path(str(source)).suffix}") for source in sources])
    many = Path(image).is_dir() or len(sources) > 1
    options = OpenOptions(backend, device, threads, force, parse_value_range(value_range))
    bundle = bundle_of(model)
    request = PredictRequest(
        prompts=prompts, points=points, labels=labels, boxes=boxes, masks=bool(mask), each_point=each_point,
        multimask=multimask, conf=conf, everything=everything, iou=iou, max_det=max_det, classes=classes or None,
        agnostic_nms=agnostic_nms, imgsz=imgsz,
    )  # fmt: skip
    finder = command_of(model_family(bundle)).open(bundle, request, options)
    used = {"model": model, "backend": finder.backend, "device": finder.device}
    records: list[dict[str, Any]] = []
    failed: list[SamedgeError] = []
    for source, stem in zip(sources, stems, strict=True):
        with _Written(save, txt, stem, many, prompts) as written:
            try:
                for frame in images_of(source, vid_stride):
                    results = finder.find(frame)
                    written.write(results)
                    if json is not None:
                        records.append(_record(results, image_id=len(records)))
                    if json != Path("-"):
                        finder.show(results)
            except SamedgeError as error:
                if not many:
                    raise
                failed.append(error)
                sys.stderr.write(f"skipped: {'' if error.where == str(source) else f'{source}: '}{error}\n")
    if json is not None:
        _write_json(_coco_results(records) if json_form == "coco" else used | {"images": records}, json)
    if failed:
        raise UsageError(
            f"{len(failed)} of {len(sources)} images were skipped", where=image, cure="See the lines above"
        )


def bundle_of(model: str) -> str:
    """Return the bundle or graph to open; a checkpoint is first exported into the cache, with progress."""
    from samedge.api.cached import cached_bundle
    from samedge.bundle.archive import GRAPH_SUFFIXES, is_bundle
    from samedge.cli.progress import shown_progress

    if is_bundle(model) or Path(model).suffix.lower() in GRAPH_SUFFIXES:
        return model
    with shown_progress() as progress:
        return str(cached_bundle(model, progress=progress))


class _Written:
    """Overlays and labels of one source; a context that finishes its video.

    Args:
        save: Overlay of an image; of a video, a video by its suffix, or a folder of images.
        txt: Labels of an image; of a video, a folder.
        stem: Name of the source, for files in folders.
        many: The paths are folders for several sources.
        prompts: Drawn over the masks.
    """

    def __init__(self, save: Path | None, txt: Path | None, stem: str, many: bool, prompts: dict[str, Any]) -> None:
        self._save, self._txt, self._stem, self._many, self._prompts = save, txt, stem, many, prompts
        self._video: VideoFile | None = None

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_: object) -> None:
        if self._video is not None:
            self._video.close()

    def write(self, results: Results) -> None:
        """Write one image or frame."""
        from samedge.runtime.image.limits import VIDEO_SUFFIXES
        from samedge.runtime.results.overlay import draw_prompts, write_image
        from samedge.runtime.results.video_file import VideoFile

        frame = results.frame
        if self._save is not None:
            save = self._save / f"{self._stem}{'.png' if frame is None else '.mp4'}" if self._many else self._save
            points, labels, boxes = (self._prompts.get(name) for name in ("points", "labels", "bboxes"))
            shown = draw_prompts(results.plot(), points, labels, boxes)
            if frame is None:
                write_image(save, shown)
            elif save.suffix.lower() in VIDEO_SUFFIXES:
                self._video = self._video or VideoFile(save)
                self._video.write(shown, results.frame_rate)
            else:
                write_image(save / f"{self._stem}_{frame}.png", shown)
        if self._txt is not None and frame is not None:
            results.save_txt(self._txt / f"{self._stem}_{frame}.txt")
        elif self._txt is not None:
            results.save_txt(self._txt / f"{self._stem}.txt" if self._many else self._txt)


def _record(results: Results, image_id: int) -> dict[str, Any]:
    height, width = results.orig_shape
    place = {} if results.frame is None else {"frame": results.frame}
    return {
        "id": image_id, "image": results.path, **place, "height": height, "width": width, "speed_ms": results.speed,
        "dropped_prompts": list(results.dropped), "objects": results.to_coco(image_id),
    }  # fmt: skip


def _coco_results(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records as COCO results; images are numbered by their names or from 1, categories from 1."""
    results = []
    for number, record in enumerate(records, 1):
        stem = Path(record["image"]).stem
        image = {"image_id": int(stem) if stem.isdecimal() else number, "file_name": Path(record["image"]).name}
        for found in record["objects"]:
            kept = {name: found[name] for name in ("bbox", "score", "segmentation") if found.get(name) is not None}
            results.append({**image, "category_id": found["category_id"] + 1, **kept})
    return results


def _write_json(document: dict[str, Any] | list[dict[str, Any]], path: Path) -> None:
    from json import dumps

    from samedge.storage.files import storage_errors

    text = dumps(document, indent=2) + "\n"
    if path == Path("-"):
        sys.stdout.write(text)
        return
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
