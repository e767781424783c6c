"""The engines of a SAM: encoder and decoder, for ranges of prompts and points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import Manifest
from samedge.errors import UsageError
from samedge.export.engines.target import EngineTarget
from samedge.options import AxisRange, EngineBuildOptions, ExportOptions, changed_fields, refuse_foreign
from samedge.parity.sam_verify import takes_probes
from samedge.types import Precision

_SMALL_BOARD_BYTES: Final = 5_000_000_000


class SamEngines:
    """The `samedge.export.engines.family.FamilyEngines` of SAM."""

    def refuse(self, options: ExportOptions, target: EngineTarget) -> None:
        """See `FamilyEngines`: there is nothing to refuse."""

    def profiles(self, manifest: Manifest, asked: EngineBuildOptions) -> dict[str, AxisRange]:
        """See `FamilyEngines`: ranges of prompts and of their points."""
        changed = changed_fields(asked)
        refuse_foreign("a SAM", {f"--{name}": name in changed for name in ("batch", "height", "width")})
        return {"prompts": asked.prompts, "points": asked.points}

    def half_rungs(self, rungs: Sequence[str]) -> tuple[str, ...]:
        """See `FamilyEngines`: each of them differs."""
        return tuple(rungs)

    def require_judged(self, profiles: Mapping[str, AxisRange]) -> None:
        """See `FamilyEngines`: the probes are single prompts."""
        prompts, points = profiles["prompts"], profiles["points"]
        if not takes_probes(prompts, points):
            raise UsageError(
                f"engines for {prompts} prompts of {points} points do not take the probes, which are one prompt of 2 "
                "to 4",
                where="--prompts, --points",
                cure="Let them take 1 prompt and 2 to 4 points, or build with --no-check",
            )

    def advice(self, bundle: Bundle, target: EngineTarget, precision: Precision) -> tuple[str, ...]:
        """See `FamilyEngines`: what the form of the encoder costs on this GPU."""
        form = bundle.manifest.graph("encoder").variant.partition(",")[0]
        if form == "chunked":
            return (
                "the encoder was exported for processors (form 'chunked'), and TensorRT fuses little of its attention: "
                "for faster engines export with --format trt or rtx, or with --form mask (--form concat for boards "
                "with little memory)",
            )
        if form == "mask" and target.gpu is not None and target.gpu.memory_bytes < _SMALL_BOARD_BYTES:
            return (
                "the encoder's form 'mask' writes a large bias in global layers, 335 MB more than 'concat' in ViT-B: "
                "for boards with little memory export with --form concat",
            )
        return ()
