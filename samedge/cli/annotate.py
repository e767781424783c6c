"""``samedge annotate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from samedge.cli.predict import VALUE_RANGE_HELP

if TYPE_CHECKING:
    from samedge.annotation.auto_annotate import AnnotateReport, AnnotateStep

_SHOWN: Final = 20
"""Number of dropped boxes that are listed on stderr; the manifest lists all of them."""
_MASKS: Final[Any] = {"rich_help_panel": "Masks"}


def annotate(
    data: Annotated[str, typer.Argument(help="Folder of images, image, or pattern.")],
    det_model: Annotated[
        str, typer.Option("--det-model", help="YOLOv8 checkpoint or graph file, or a .json of boxes.")
    ] = "yolov8x.pt",
    sam_model: Annotated[str, typer.Option("--sam-model", help="Bundle or checkpoint.")] = "sam_b.pt",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the labels; by default DATA_auto_annotate_labels beside DATA."),
    ] = None,
    conf: Annotated[float, typer.Option(help="Minimum score of a box.")] = 0.25,
    iou: Annotated[
        float, typer.Option(help="IoU with a better box of the same class above which a box is dropped.")
    ] = 0.45,
    imgsz: Annotated[int, typer.Option(help="Side of the detector's input, px.")] = 640,
    max_det: Annotated[int, typer.Option(help="Maximum number of boxes per image; the best are kept.")] = 300,
    class_: Annotated[
        list[int] | None, typer.Option("--class", help="Number of a class to keep. Can be repeated.")
    ] = None,
    sam_conf: Annotated[
        float, typer.Option(help="Drop masks unless their predicted IoU exceeds this.", **_MASKS)
    ] = 0.25,
    parts: Annotated[
        str, typer.Option(help="Masks in several parts: bridge, all (one line per part) or largest.", **_MASKS)
    ] = "bridge",
    holes: Annotated[
        str, typer.Option(help="Masks with holes: fill, bridge, or drop (the object).", **_MASKS)
    ] = "fill",
    min_area: Annotated[int, typer.Option(help="Remove parts and fill holes of fewer px.", **_MASKS)] = 0,
    coco_segmentation: Annotated[
        str, typer.Option(help="Masks of the COCO file: rle, or polygon for tools that read polygons only.", **_MASKS)
    ] = "rle",
    recursive: Annotated[bool, typer.Option(help="Include images in subfolders.")] = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over: remove the labels of earlier runs in the folder.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Threads that read images, and as many again that draw masks.")
    ] = None,
    backend: Annotated[str, typer.Option(help="Backend of both models: see samedge info --backends.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; an error if unavailable.")] = "",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the models.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also use models that failed their parity check.")] = False,
    value_range: Annotated[str | None, typer.Option(help=VALUE_RANGE_HELP)] = None,
) -> None:
    """Annotate images: a detector proposes boxes and classes, SAM segments them.

    Writes YOLO segmentation labels, one COCO JSON file with RLE masks, and a manifest, from which an interrupted run
    resumes. An image that fails is reported on stderr and skipped, and the exit status is 1. The folder of the labels
    is printed last, on stdout.
    """
    from samedge.annotation.auto_annotate import auto_annotate
    from samedge.cli.predict import bundle_of
    from samedge.cli.progress import shown_counter
    from samedge.cli.prompt_options import parse_value_range
    from samedge.errors import UsageError

    sam_bundle = bundle_of(sam_model)
    with shown_counter() as show:
        report_skipped = _SkippedReport()

        def progress(step: AnnotateStep) -> None:
            report_skipped(step)
            show(step.pace.done, step.pace.total, str(step.pace))

        report = auto_annotate(
            data, det_model, sam_bundle, device, conf, iou, imgsz, max_det, class_, output, sam_conf=sam_conf,
            parts=cast("Any", parts), holes=cast("Any", holes), min_area=min_area,
            coco_segmentation=cast("Any", coco_segmentation), recursive=recursive,
            workers=workers, restart=restart, backend=backend, threads=threads, force=force,
            value_range=parse_value_range(value_range), progress=progress,
        )  # fmt: skip
    for line in _summary(report):
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(f"{report.output}\n")
    sys.stdout.flush()
    if report.failures:
        raise UsageError(
            f"{report.failures} of {report.images} images were skipped",
            where=data,
            cure="See the lines above or the manifest, and run the same command to try them again",
        )


class _SkippedReport:
    """Failed images and dropped boxes, listed on stderr as they occur."""

    def __init__(self) -> None:
        self._dropped = 0

    def __call__(self, step: AnnotateStep) -> None:
        """List a failed image, or dropped boxes, of which at most `_SHOWN` in total."""
        from samedge.annotation.records import REASONS

        record = step.record
        if record is None:
            return
        if record.error is not None:
            sys.stderr.write(f"skipped: {record.image}: {record.error}\n")
        for drop in record.dropped:
            self._dropped += 1
            if self._dropped <= _SHOWN:
                corners = ", ".join(f"{side:.0f}" for side in drop.box)
                trust = "" if drop.predicted_iou is None else f" ({drop.predicted_iou:.3f})"
                sys.stderr.write(
                    f"dropped: {record.image}: box {drop.proposal} of class {drop.category} ({corners}): "
                    f"{REASONS[drop.reason]}{trust}\n"
                )
            elif self._dropped == _SHOWN + 1:
                sys.stderr.write("dropped: further boxes, listed in the manifest\n")


def _summary(report: AnnotateReport) -> list[str]:
    from samedge.annotation.records import REASONS

    done = f"{report.annotated} images with {report.objects} objects, {report.empty} without, {report.failures} skipped"
    if report.resumed:
        done += f"; {report.resumed} done by earlier runs"
    reasons = [f"{count} boxes have no label: {REASONS[reason]}" for reason, count in report.dropped.items()]
    return [done, *reasons, f"COCO: {report.coco}", f"manifest: {report.manifest}"]
