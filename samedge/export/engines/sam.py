"""The engines of a SAM: encoder and decoder, for ranges of prompts and points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import Manifest
from samedge.errors import UsageError
from samedge.export.engines.family import FamilyEngines
from samedge.export.engines.target import EngineTarget
from samedge.options import AxisRange, EngineBuildOptions, changed_fields, refuse_foreign
from samedge.parity.sam_verify import takes_probes
from samedge.types import Precision

_SMALL_BOARD_BYTES: Final = 5_000_000_000


class SamEngines(FamilyEngines):
    """The engines of SAM."""

    def profiles(self, manifest: Manifest, options: EngineBuildOptions) -> dict[str, AxisRange]:
        """Return the ranges of prompts and of their points."""
        changed = changed_fields(options)
        refuse_foreign("a SAM", {f"--{name}": name in changed for name in ("batch", "height", "width")})
        return {"prompts": options.prompts, "points": options.points}

    def require_judged(self, profiles: Mapping[str, AxisRange]) -> None:
        """Require ranges that accept the probes: single prompts."""
        prompts, points = profiles["prompts"], profiles["points"]
        if not takes_probes(prompts, points):
            raise UsageError(
                f"engines for {prompts} prompts of {points} points do not accept the probes: 1 prompt of 2 to 4",
                where="--prompts, --points",
                cure="Include 1 prompt and 2 to 4 points, or build with --no-check",
            )

    def advice(self, bundle: Bundle, target: EngineTarget, precision: Precision) -> tuple[str, ...]:
        """Recommend the form of the encoder that suits this GPU."""
        form = bundle.manifest.graph("encoder").variant.partition(",")[0]
        if form == "chunked":
            return (
                "the encoder was exported for CPUs (form 'chunked'), and TensorRT fuses little of its attention: for "
                "faster engines export with --format trt or rtx, or with --form mask (--form concat for boards with "
                "little memory)",
            )
        if form == "mask" and target.gpu is not None and target.gpu.memory_bytes < _SMALL_BOARD_BYTES:
            return (
                "the encoder's form 'mask' needs 335 MB more than 'concat' in ViT-B for its global attention: for "
                "boards with little memory export with --form concat",
            )
        return ()
