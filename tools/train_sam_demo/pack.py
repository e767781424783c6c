"""Packing of a run's averaged weights: `python -m tools.train_sam_demo.pack RUN [--output FILE]`.

The file contains fp16 tensors under Meta's names; its metadata records their origin. Rounding to fp16 is checked here,
because a value beyond its range would become an infinity.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tools.train_sam_demo.network import SAM_DEMO
from tools.train_sam_demo.weights import averaged_weights

OUTPUT: Final = Path(__file__).parents[2] / "samedge" / "assets" / "sam_demo.safetensors"
LARGEST_BYTES: Final = 16_000_000


def pack(weights: dict[str, Tensor], metadata: dict[str, str], output: Path) -> int:
    """Write weights as fp16 safetensors; return the file's size in bytes.

    Args:
        weights: The state dict of a `Sam`.
        metadata: Metadata for the file's header.
        output: The file; its folder is created.

    Raises:
        ValueError: A weight does not fit fp16, or the file is too large to bundle.
    """
    halves = {name: value.half().contiguous() for name, value in weights.items()}
    for name, value in halves.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} has values beyond fp16")
    size = sum(value.numel() * 2 for value in halves.values())
    if size > LARGEST_BYTES:
        raise ValueError(f"the file has {size} bytes, more than the permitted {LARGEST_BYTES}")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(halves, output, metadata)
    output.chmod(0o644)  # save_file makes it readable by its owner only, and packages keep that mode
    return output.stat().st_size


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument(
        "--began-with",
        type=Path,
        nargs="*",
        default=[],
        help="predecessors of the run, whose steps count as well: packed weights, and runs of the encoder alone",
    )
    options = parser.parse_args(arguments)
    weights, step, settings = averaged_weights(options.run)
    hours, encoder_only = float(settings["hours"]), 0
    for source in options.began_with:
        if source.suffix == ".safetensors":
            with safe_open(source, "pt") as before:
                step += int(before.metadata()["training_steps"])
                encoder_only += int(before.metadata().get("encoder_only_steps", 0))
                hours += float(before.metadata()["training_hours"])
        else:
            _, steps, before_settings = averaged_weights(source)
            encoder_only += steps
            hours += float(before_settings["hours"])
    metadata = {
        "name": "sam_demo",
        "image_size": str(SAM_DEMO.image_size),
        "licence": "Apache-2.0",
        "training_steps": str(step),
        "encoder_only_steps": str(encoder_only),
        "seed": settings["seed"],
        "training_hours": f"{hours:.2f}",
        "scenes_a_step": settings["scenes"],
        "targets_a_scene": settings["targets"],
        "source": "tools/train_sam_demo",
    }
    size = pack(weights, metadata, options.output)
    print(f"{options.output}: {size / 1e6:.1f} MB, {step} steps")


if __name__ == "__main__":
    main()
