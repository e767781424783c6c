"""``samedge annotate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from samedge.annotation.auto_annotate import AnnotateReport, AnnotateStep

_SHOWN: Final = 20
"""So many boxes without labels are named; all of them are in the manifest."""
_MASKS: Final[Any] = {"rich_help_panel": "Masks"}


def annotate(
    data: Annotated[str, typer.Argument(help="Folder of images, image, or pattern.")],
    det_model: Annotated[
        str, typer.Option("--det-model", help="YOLOv8 checkpoint or graph file, or a .json of boxes.")
    ] = "yolov8x.pt",
    sam_model: Annotated[str, typer.Option("--sam-model", help="Bundle, or checkpoint.")] = "sam_b.pt",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the labels; DATA_auto_annotate_labels beside DATA.")
    ] = None,
    conf: Annotated[float, typer.Option(help="Boxes must score more.")] = 0.25,
    iou: Annotated[
        float, typer.Option(help="Boxes of one class that overlap a better one by more are dropped.")
    ] = 0.45,
    imgsz: Annotated[int, typer.Option(help="Side of the detector's input, px.")] = 640,
    max_det: Annotated[int, typer.Option(help="Boxes an image, the best.")] = 300,
    class_: Annotated[
        list[int] | None, typer.Option("--class", help="Only this class, as a number. Can be repeated.")
    ] = None,
    sam_conf: Annotated[float, typer.Option(help="Drop masks whose predicted IoU is not above this.", **_MASKS)] = 0.25,
    parts: Annotated[
        str, typer.Option(help="A mask's parts in the labels: bridge, all (a line each) or largest.", **_MASKS)
    ] = "bridge",
    holes: Annotated[
        str, typer.Option(help="A mask's holes in the labels: fill, bridge, or drop (the object).", **_MASKS)
    ] = "fill",
    min_area: Annotated[int, typer.Option(help="Remove parts and fill holes of fewer px.", **_MASKS)] = 0,
    recursive: Annotated[bool, typer.Option(help="Take images of subfolders as well.")] = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew: remove the labels of earlier runs in the folder.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Threads that read images, and as many that draw masks.")] = None,
    backend: Annotated[str, typer.Option(help="What runs the graphs.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...: had, or an error.")] = "",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the models.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Use models that failed their parity check.")] = False,
) -> None:
    """Annotate images: a detector proposes boxes with classes, SAM segments them.

    Writes YOLO segmentation labels, one COCO JSON with RLE, and a manifest, with which an interrupted run goes on where
    it stopped. An image that cannot be done is named on stderr and skipped, and the program ends with status 1. Prints
    the folder of the labels last, on stdout.
    """
    from samedge.annotation.auto_annotate import auto_annotate
    from samedge.cli.predict import bundle_of
    from samedge.cli.progress import shown_counter
    from samedge.errors import UsageError

    sam_bundle = bundle_of(sam_model)
    with shown_counter() as show:
        talk = _Talk()

        def progress(step: AnnotateStep) -> None:
            talk.about(step)
            show(step.pace.done, step.pace.total, str(step.pace))

        report = auto_annotate(
            data,
            det_model,
            sam_bundle,
            device,
            conf,
            iou,
            imgsz,
            max_det,
            class_,
            output,
            sam_conf=sam_conf,
            parts=parts,  # type: ignore[arg-type]  # checked where it is used
            holes=holes,  # type: ignore[arg-type]
            min_area=min_area,
            recursive=recursive,
            workers=workers,
            restart=restart,
            backend=backend,
            threads=threads,
            force=force,
            progress=progress,
        )
    for line in _summary(report):
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(f"{report.output}\n")
    sys.stdout.flush()
    if report.failures:
        raise UsageError(
            f"{report.failures} of {report.images} images were skipped",
            where=data,
            cure="See the lines above, or the manifest; the same command tries them again",
        )


class _Talk:
    """Names what is missing, on stderr."""

    def __init__(self) -> None:
        self._dropped = 0

    def about(self, step: AnnotateStep) -> None:
        """Name an image that failed, and boxes without labels until there were enough of them."""
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
                sys.stderr.write("dropped: more, which the manifest names\n")


def _summary(report: AnnotateReport) -> list[str]:
    from samedge.annotation.records import REASONS

    done = f"{report.annotated} images with {report.objects} objects, {report.empty} without, {report.failures} skipped"
    if report.resumed:
        done += f"; {report.resumed} were done before"
    reasons = [f"{count} boxes have no label: {REASONS[reason]}" for reason, count in report.dropped.items()]
    return [done, *reasons, f"COCO: {report.coco}", f"manifest: {report.manifest}"]
