"""Runs a table of calls on Ultralytics' classes, in a process of its own, and writes down what they return.

    python ultralytics_calls.py job.json

The job has ``make`` (a step of ultralytics_reference.py, or None), ``calls`` and ``output``.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def answers(package: Any, calls: list[dict[str, Any]]) -> list[list[Any]]:
    """Return what each expression of each call gives; `r` is the first result, `rs` are all, `model` is the model."""
    told = []
    for call in calls:
        if call["class"] == "SAMPredictor":
            kind = getattr(package, "SAMPredictor", None) or import_module(f"{package.__name__}.models.sam").Predictor
            model = kind(overrides=call["model"][0])
            model.set_image(call["arguments"][0])
            results = list(model(**call["keywords"]))
        else:
            model = getattr(package, call["class"])(*call["model"])
            results = list(model(*call["arguments"], **call["keywords"]))
        names = {"model": model, "rs": results, "r": results[0], "Path": Path}
        told.append([eval(expression, names) for expression in call["expressions"]])  # noqa: S307  # written in the test
    return told


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    reference = import_module("ultralytics_reference")
    package = reference.start()
    if job["make"]:
        reference.make(package, job["make"])
    Path(job["output"]).write_text(json.dumps(answers(package, job["calls"])))


if __name__ == "__main__":
    main()
