"""Causes and cures of failed TensorRT builds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from samedge.engines.tensorrt.api import Flavour
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.errors import EngineError, UsageError

_SMALLER: Final = (
    "Allow fewer prompts or points with a smaller profile, give more workspace, close other programs, "
    "or build on a machine with more memory"
)
_CURES: Final = (  # lower-case signs of a cause in the log, and the cure; the first match wins
    (("shape tensor and must have type",), "Export with io='native': whose decoder ends at the low-resolution masks"),
    (("first input has type uint8",), "Export a graph whose images are float32, or whose first step is a Cast"),
    (("non-zero zero point",), "Quantise symmetrically: int8 with zero points of 0"),
    (("cannot compile for target",), "Omit the targets that lack this precision: fp8 needs 8.9 or newer"),
    (
        ("fp32 gemm is not supported",),
        "Export with precision fp16, or omit the target 7.5 and run the bundle there with onnxruntime on device 'cuda'",
    ),
    (
        ("nonmaxsuppression",),
        "Export without --nms: this TensorRT has no box suppression, and the host does it in a millisecond",
    ),
    (("must have same input types",), "Export the graph again with samedge, which keeps the dtypes of operands alike"),
    (
        ("outofmemory", "out of memory", "requested size", "insufficient memory", "bad_alloc", "workspace limit"),
        _SMALLER,
    ),
    (
        ("driver version is insufficient", "cudaerror 35", "error 35", "no cuda-capable device", "cudaerrornodevice"),
        "Install NVIDIA's driver; without a GPU, only format 'rtx' can be built",
    ),
    (
        ("no importer registered", "plugin not found", "unsupported onnx opset", "no op registered"),
        "Export with opset 17, or update TensorRT: 8.6 is the oldest with LayerNormalization",
    ),
    (
        ("failed to open file", "failed to import initializer"),
        "An external weight file beside the graph is missing or damaged: copy it again",
    ),
    (
        ("failed to parse", "cannot be found", "must have at least one output", "no graph"),
        "The file is truncated or not an ONNX graph: copy it again, or export the checkpoint again",
    ),
)  # fmt: skip


def build_failure(flavour: Flavour, graph: Path, doing: str, causes: Sequence[str]) -> EngineError:
    """Return the error for a graph that TensorRT could not parse, configure or build.

    Args:
        flavour: The TensorRT that failed.
        graph: The ONNX file.
        doing: Verb of the message.
        causes: TensorRT's messages, most informative first.
    """
    messages = [" ".join(cause.split()) for cause in causes if cause.strip()]
    everything = " ".join(messages).lower()
    cure = next(
        (cure for signs, cure in _CURES if any(sign in everything for sign in signs)),
        "Report this with the graph and the version of TensorRT",
    )
    cause = messages[0][:400] if messages else "no reason given"
    return EngineError(
        f"{flavour} cannot {doing} this graph: {cause}",
        where=graph.name,
        cure=cure,
        causes=tuple(messages),
        doing=doing,
    )


def refuse_unsupported(flavour: Flavour, options: BuildOptions) -> None:
    """Reject options that this copy of TensorRT does not support, most of which it would silently ignore."""
    features = flavour.features
    if options.targets and not features.compute_capabilities:
        raise UsageError(
            f"{flavour} builds for the local GPU only and accepts no targets",
            cure="Omit the targets, or build with format 'rtx'",
        )
    unknown = [target for target in options.targets if target not in features.compute_capabilities]
    if unknown:
        raise UsageError(
            f"{flavour} does not build for {unknown[0]}",
            cure=f"Choose from {', '.join(features.compute_capabilities)}; for a Jetson, build on it with format 'trt'",
        )
    if options.version_compatible and (flavour.is_rtx or not features.version_compatible):
        raise UsageError(f"{flavour} builds no version-compatible plans", cure="Omit version_compatible")
    wanted = options.hardware_compatibility
    if wanted != "none" and (flavour.is_rtx or wanted not in features.hardware_compatibility):
        cure = "Name several targets instead" if flavour.is_rtx else "Omit hardware_compatibility"
        raise UsageError(f"{flavour} has no hardware compatibility {wanted!r}", cure=cure)
    if options.typing == "strong" and not features.strong_typing:
        raise UsageError(f"{flavour} has no strong typing", cure="Use typing 'auto' or 'weak'")
    if options.typing == "weak" and features.always_strong:
        raise UsageError(f"{flavour} has only strong typing", cure="Use typing 'auto' or 'strong'")
    if options.precision == "fp8" and not features.strong_typing:
        raise UsageError(f"{flavour} has no fp8", cure="Export with precision fp16")


def computes_zeros(flavour: str, precision: str, capabilities: Collection[str], *, free_axes: bool) -> bool:
    """Return True if an engine is known to compute zeros silently on one of these GPUs.

    This is reported for fp32 matrix products with free axes on Turing by TensorRT for RTX, whose current versions do
    not support them there at all.

    Args:
        flavour: The TensorRT that builds.
        precision: Precision of the graph.
        capabilities: Compute capabilities, such as "sm75".
        free_axes: True if the graph has inputs with free axes.
    """
    return flavour == "tensorrt-rtx" and precision == "fp32" and free_axes and "sm75" in capabilities


def known_zeros(flavour: Flavour, graph: Path, *, named: bool) -> UsageError:
    """Return the error for an engine that would compute zeros.

    Args:
        flavour: The TensorRT.
        graph: The ONNX file.
        named: True if the GPU was named as a target; otherwise it is the local one.
    """
    return UsageError(
        f"{flavour} is known to compute zeros in fp32 with free axes on compute capability 7.5",
        where=graph.name,
        cure="Export with precision fp16, or omit the target 7.5"
        if named
        else "Build with precision fp16, or run the bundle with onnxruntime on device 'cuda'",
    )
