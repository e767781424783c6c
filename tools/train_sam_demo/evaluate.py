"""Evaluation of sam_demo on held-out scenes: `python -m tools.train_sam_demo.evaluate RUN_OR_FILE --out FOLDER`.

Writes report.json and overlays, and prints the table. Scenes 0 .. N - 1 of the held-out split are the same for every
model; photographs are reported separately.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from samedge.models.sam.sam import Sam
from tools.train_sam_demo.batches import tight_box
from tools.train_sam_demo.everything import best_ious, everything
from tools.train_sam_demo.letterbox import enlarged
from tools.train_sam_demo.losses import enlarge
from tools.train_sam_demo.network import normalise
from tools.train_sam_demo.pictures import truth_beside, write
from tools.train_sam_demo.real_photographs import QUESTIONS, all_of_it, answer, coins
from tools.train_sam_demo.report import recall, show, summary
from tools.train_sam_demo.scenes import Scene, Split, scene
from tools.train_sam_demo.scoring import Target, score
from tools.train_sam_demo.weights import read_sam

SIDE = 16
FILTER = {"score": 0.75, "stability": 0.85, "overlap": 0.6}
"""Settings of segment everything besides its points per side: minimum score, minimum stability, maximum overlap."""


def find_all(sam: Sam, drawn: Scene) -> torch.Tensor:
    """Segment everything with the settings of the report."""
    return everything(sam, drawn, SIDE, **FILTER)


def evaluate_scenes(sam: Sam, split: Split, count: int, recall_count: int, drawn_at: int) -> dict[str, Any]:
    """Return the figures for the first scenes of a split; recall, which takes 256 prompts each, uses fewer."""
    targets: list[Target] = []
    best: list[float] = []
    masks = 0
    for i in track(range(count), description=f"{split} scenes", transient=True):
        drawn = enlarged(scene(i, split, drawn_at), sam.image_size)
        targets += score(sam, [drawn])
        if i < recall_count:
            found = find_all(sam, drawn)
            masks += len(found)
            best += best_ious(found, drawn).tolist()
    report = {"scenes": count, **summary(targets)}
    if recall_count:
        by_size = recall(targets[: len(best)], best)
        settings = {"points_a_side": SIDE, **FILTER}
        per_scene = masks / recall_count
        report["everything"] = {
            "scenes": recall_count,
            "settings": settings,
            "masks_a_scene": per_scene,
            "recall": by_size,
        }
    return report


def scene_pictures(sam: Sam, count: int) -> list[NDArray[np.uint8]]:
    """Return a row for each of some held-out scenes: image, ground truth, masks from boxes, everything."""
    rows = []
    for i in range(count):
        drawn = scene(i, "held_out", sam.image_size)
        rows.append(truth_beside(drawn, [boxes_answered(sam, drawn), find_all(sam, drawn).numpy()]))
    return rows


@torch.no_grad()
def boxes_answered(sam: Sam, drawn: Scene) -> NDArray[np.bool_]:
    """Return the model's mask for the box of each object, bool ``[N, S, S]``."""
    count, low = len(drawn.masks), 4 * sam.embedding_size
    embedding = sam.encode(normalise(torch.from_numpy(drawn.image)[None]))
    coords = torch.from_numpy(np.stack([tight_box(m) for m in drawn.masks]))
    labels = torch.tensor([2, 3], dtype=torch.int32).expand(count, 2)
    logits, _ = sam.decode(embedding, coords, labels, torch.zeros(count, 1, low, low), torch.zeros(count))
    return np.asarray((enlarge(logits[:, :1], drawn.image.shape[0])[:, 0] > 0).numpy())


def photograph_pictures(sam: Sam) -> list[NDArray[np.uint8]]:
    """Return a row for each prompt on a photograph, then everything in each photograph."""
    rows = [np.hstack(answer(sam, question)) for question in QUESTIONS]
    names = sorted({question.photo for question in QUESTIONS})
    return rows + [np.hstack(all_of_it(sam, name)) for name in names]


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="folder of a training run, or a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.json and the overlays")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--recall-scenes", type=int, default=50)
    parser.add_argument("--train-scenes", type=int, default=0, help="also score scenes of the training split")
    parser.add_argument(
        "--drawn-at", type=int, help="side of the drawn scenes, px, before they are enlarged to the input"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sam = read_sam(options.weights)
    console = Console(width=120)
    side = options.drawn_at or sam.image_size
    report: dict[str, Any] = {"held_out": evaluate_scenes(sam, "held_out", options.scenes, options.recall_scenes, side)}
    if options.train_scenes:
        report["train_kinds"] = evaluate_scenes(sam, "train", options.train_scenes, 0, side)
    drawn = coins(sam.image_size)
    targets = score(sam, [drawn])
    found = best_ious(find_all(sam, drawn), drawn).tolist()
    report["photograph_of_coins"] = {**summary(targets), "everything": {"recall": recall(targets, found)}}
    for name, part in report.items():
        show(name, part["mean_iou"], console)
    console.print_json(data={name: part.get("everything", {}) for name, part in report.items()})
    console.print_json(data=report["held_out"]["calibration"])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(_rounded(report), indent=1) + "\n")
    write(options.out / "scenes.jpg", scene_pictures(sam, 10))
    write(options.out / "photographs.jpg", photograph_pictures(sam))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
