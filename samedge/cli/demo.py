"""``samedge demo``: the whole way from a checkpoint to an overlay, on a picture that comes along."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

PICTURE: Final = Path(__file__).parent.parent / "assets" / "coffee.jpg"
FALLBACK: Final = "seeded:mobile_sam"
POINT: Final = (330.0, 120.0)
BOX: Final = (120.0, 30.0, 500.0, 310.0)


def demo(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint or known name.")] = "mobile_sam.pt",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for bundle and overlay.")] = Path("demo"),
) -> None:
    """Exports a checkpoint, proves it, and segments a cup of coffee by a point and by a box."""
    from rich.console import Console

    import samedge
    from samedge.cli.tables import results_table
    from samedge.errors import DownloadError
    from samedge.runtime.image import read_image
    from samedge.runtime.overlay import draw_prompts, write_picture
    from samedge.runtime.results import Results

    say = sys.stdout.write
    try:
        bundle = _export(checkpoint, output / "bundle")
    except DownloadError as error:
        say(f"{error}\n")
        say("Going on with seeded random weights of the same architecture.\n")
        bundle = _export(FALLBACK, output / "bundle")
    with samedge.load(bundle) as predictor:
        say(f"loaded {bundle} on {predictor.backend} {predictor.device}\n")
        predictor.set_image(PICTURE)
        by_point = predictor.predict(points=POINT)
        by_box = predictor.predict(boxes=BOX)
        seeded = predictor.info.model.seeded
        picture = read_image(PICTURE)
        for name, prediction, prompt in (
            ("point", by_point, {"points": [POINT]}),
            ("box", by_box, {"boxes": [BOX]}),
        ):
            results = Results.from_prediction(prediction, picture, path=name, speed=predictor.speed)
            Console().print(results_table(results))
            overlay = output / f"overlay-{name}.png"
            write_picture(overlay, draw_prompts(results.plot(), **prompt))
            say(f"{overlay}\n")
    if seeded:
        say(
            "NOTE: these weights are random numbers from a seed. Every step ran for real, and the masks mean nothing: "
            "put mobile_sam.pt here, or allow its download, to see the cup.\n"
        )


def _export(checkpoint: str, target: Path) -> Path:
    from rich.console import Console

    from samedge.cli.progress import shown_progress
    from samedge.cli.tables import parity_table
    from samedge.export.cached import import_exporter
    from samedge.runtime.bundle import bundle_manifest

    with shown_progress() as progress:
        path = import_exporter()(checkpoint, output=target, progress=progress)
    Console().print(parity_table(bundle_manifest(path).parity))
    return path
