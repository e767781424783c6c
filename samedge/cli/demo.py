"""``samedge demo``: all steps from a checkpoint to overlays, on a bundled image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

ASSETS: Final = Path(__file__).parent.parent / "assets"
SAM_DEMO: Final = "sam_demo"
SEEDED: Final = "seeded:mobile_sam"


@dataclass(frozen=True, slots=True)
class _Sample:
    """A bundled image, with a point and a box for objects in it, in px, and thresholds of segment everything."""

    file: str
    point: tuple[float, float]
    box: tuple[float, float, float, float]
    predicted_iou: float = 0.88
    stability: float = 0.95

    @property
    def path(self) -> Path:
        return ASSETS / self.file


COFFEE: Final = _Sample("coffee.jpg", point=(330.0, 120.0), box=(120.0, 30.0, 500.0, 310.0))
DRAWN: Final = _Sample(
    "scene.jpg", point=(322.0, 140.0), box=(218.0, 204.0, 306.0, 305.0), predicted_iou=0.5, stability=0.7
)
"""Drawn shapes of kinds that sam_demo was not trained on. Its predicted IoU is lower than SAM's."""

POINTS_PER_SIDE: Final = 16
"""A quarter of the default number of points, so that the demo does not take minutes."""


def demo(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint or known name.")] = "mobile_sam.pt",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for bundle and overlays.")] = Path("demo"),
) -> None:
    """Export a checkpoint, verify it, and segment an image by a point, by a box, and entirely.

    Without the checkpoint and without a network, the small bundled model is used.
    """
    from samedge.errors import DownloadError
    from samedge.models.checkpoints.weights import BUNDLED_WEIGHTS

    write = sys.stdout.write
    try:
        bundle = _export(checkpoint, output / "bundle")
    except DownloadError as error:
        checkpoint = SAM_DEMO if BUNDLED_WEIGHTS[SAM_DEMO].is_file() else SEEDED
        write(f"{error}\nContinuing with {checkpoint}.\n")
        bundle = _export(checkpoint, output / "bundle")
    if _segment(bundle, DRAWN if checkpoint == SAM_DEMO else COFFEE, output):
        write(
            "NOTE: these weights are seeded random numbers. Every step really ran, but the masks mean nothing: "
            "put mobile_sam.pt here, or allow its download, to see the cup.\n"
        )
    elif checkpoint == SAM_DEMO:
        write(
            "NOTE: sam_demo is a small model trained on drawn scenes. It shows that everything works; for photographs, "
            "use a checkpoint of SAM or MobileSAM: samedge demo sam_b.pt\n"
        )


def _export(checkpoint: str, target: Path) -> Path:
    from rich.console import Console

    from samedge.bundle.archive import bundle_manifest
    from samedge.cli.progress import shown_progress
    from samedge.cli.tables import parity_table
    from samedge.export.exporter import export_model

    with shown_progress() as progress:
        path = export_model(checkpoint, output=target, progress=progress)
    Console().print(parity_table(bundle_manifest(path).parity))
    return path


def _segment(bundle: Path, sample: _Sample, output: Path) -> bool:
    """Write overlays for the point, the box and everything; return True if the weights are random."""
    import samedge
    from samedge.cli.tables import print_results
    from samedge.runtime.image.read import read_image
    from samedge.runtime.results.overlay import draw_prompts, write_image
    from samedge.runtime.results.results import Results

    image = read_image(sample.path)
    with samedge.load(bundle) as predictor:
        sys.stdout.write(f"loaded {bundle} on {predictor.backend} {predictor.device}\n")
        predictor.set_image(image)

        def show(name: str, results: Results, **prompt: Sequence[Sequence[float]]) -> None:
            print_results(results)
            overlay = output / f"overlay-{name}.png"
            write_image(overlay, draw_prompts(results.plot(), **prompt))
            sys.stdout.write(f"{overlay}\n")

        point = Results.from_prediction(predictor.predict(points=sample.point), image, path="point")
        show("point", point, points=[sample.point])
        box = Results.from_prediction(predictor.predict(boxes=sample.box), image, path="box")
        show("box", box, boxes=[sample.box])
        found = predictor.everything(
            points_per_side=POINTS_PER_SIDE, pred_iou_thresh=sample.predicted_iou,
            stability_score_thresh=sample.stability,
        )  # fmt: skip
        show("everything", found.results(image, path="everything"))
        return predictor.info.model.seeded
