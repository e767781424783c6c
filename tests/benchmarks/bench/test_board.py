"""A board: a bundle, and no torch anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.bundles import write_small_bundle

from samedge.benchmarks.bench.records import BenchReport, read_bench
from samedge.types import Verdict

ABSENT = ("torch", "onnx", "onnxslim", "safetensors", "matplotlib")


def run(folder: Path, verdict: Verdict) -> tuple[BenchReport, str]:
    """Measures a bundle where nothing is installed that a board does not have."""
    hidden = folder / "hidden"
    hidden.mkdir()
    for name in ABSENT:
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError('hidden', name='{name}')\n")
    write_small_bundle(folder / "bundle", verdict=verdict)
    done = subprocess.run(
        [
            sys.executable, "-m", "samedge", "bench", "bundle", "--rounds", "1", "--warmup", "0", "--backend",
            "onnxruntime", "--threads", "1", "--columns", "size,params,encode,images,rss,iou,parity", "--peers",
            "--output", "out",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(hidden), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "SAMEDGE_CACHE": str(folder / "cache"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return read_bench(folder / "out" / "bench.json"), done.stderr


@pytest.mark.parametrize("verdict", ["unchecked", "failed"])
def test_a_bundle_is_measured_without_torch_and_its_verdict_is_told(tmp_path: Path, verdict: Verdict) -> None:
    told, errors = run(tmp_path, verdict)
    own, *peers = told.rows
    assert (own.skipped, own.verdict, own.family) == ("", verdict, "sam")
    assert own.stages.keys() == {"preprocess", "encode", "prompt"}
    if verdict == "unchecked":
        assert own.empty["iou"] == "the weights are random, so their masks mean nothing"
    assert all("give the checkpoint instead" in peer.skipped for peer in peers)
    assert errors.rstrip().endswith("The plot needs the package 'matplotlib', which is not installed. Install it with: "
                                    "pip install 'samedge[bench]'")  # fmt: skip
    assert ("FAILED" in (tmp_path / "out" / "bench.md").read_text()) == (verdict == "failed")
