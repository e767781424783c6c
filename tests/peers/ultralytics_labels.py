"""Reads a folder of labels with Ultralytics' own loader, in a process of its own; see `ultralytics_reference`.

    python ultralytics_labels.py dataset output.json

``dataset`` has ``images`` and ``labels`` beside each other and ``names.json``. Written are, for each image, the classes
and polygons that the loader gives to training, and the share of the image that each of its masks covers.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    import_module("ultralytics_reference").start()
    dataset_module = import_module("ultralytics.data.dataset")
    polygons2masks = import_module("ultralytics.data.utils").polygons2masks
    names = json.loads((folder / "names.json").read_text())
    dataset = dataset_module.YOLODataset(
        img_path=str(folder / "images"),
        data={"names": dict(enumerate(names)), "nc": len(names), "channels": 3},
        task="segment",
        augment=False,
    )
    found = {}
    for label in dataset.labels:
        height, width = label["shape"]
        segments = [segment * (width, height) for segment in label["segments"]]
        masks = polygons2masks((height, width), segments, 1, 1) if segments else []
        found[Path(label["im_file"]).relative_to(folder / "images").as_posix()] = {
            "classes": label["cls"].reshape(-1).tolist(),
            "segments": [segment.tolist() for segment in segments],
            "areas": [float(mask.sum()) for mask in masks],
        }
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
