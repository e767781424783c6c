"""User-facing device names mapped to onnxruntime's execution providers, and the check of what a session obtained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from samedge.engines.onnxruntime.staged import OwnStream
from samedge.errors import DeviceUnavailableError

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

PROVIDERS: Final = {
    "tensorrt": TENSORRT,
    "cuda": CUDA,
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "dml": "DmlExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": CPU,
}
_INDEXED: Final = (TENSORRT, CUDA, "ROCMExecutionProvider", "MIGraphXExecutionProvider", "DmlExecutionProvider")


@dataclass(frozen=True, slots=True)
class Target:
    """An onnxruntime device. `name` is the one used in reports: "cpu", "cuda:0"."""

    name: str
    provider: str
    index: int

    def providers(self, own: OwnStream | None = None) -> list[str | tuple[str, dict[str, str]]]:
        """Return a session's providers, on the given stream if any; the CPU last, for nodes without another kernel."""
        if self.provider == CPU:
            return [CPU]
        options: dict[str, str] = {}
        if self.provider in _INDEXED:
            options["device_id"] = str(self.index)
        if self.provider == CUDA:
            # The exhaustive convolution search makes the first call of every new shape take seconds, and an arena that
            # doubles its blocks holds memory that a board shares with its CPU.
            options |= {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
            options |= {} if own is None else own.provider_options()
        chain: list[str | tuple[str, dict[str, str]]] = [(self.provider, options)]
        if self.provider == TENSORRT:
            chain.append((CUDA, {"device_id": str(self.index)}))
        return [*chain, CPU]


def parse_device(device: str) -> Target:
    """Parse a device name such as "cuda:1".

    Raises:
        DeviceUnavailableError: onnxruntime has no device of this name.
    """
    name, colon, number = device.partition(":")
    provider = name if name.endswith("ExecutionProvider") else PROVIDERS.get(name.lower())
    if provider is None or (colon and not number.isdecimal()):
        raise DeviceUnavailableError(
            f"onnxruntime has no device {device!r}",
            cure=f"Choose one of {', '.join(PROVIDERS)}, with an index such as cuda:1 if there are several",
            device=device,
        )
    if colon and provider not in _INDEXED:
        raise DeviceUnavailableError(
            f"onnxruntime's device {name!r} takes no index", where=device, cure=f"Request {name!r}", device=device
        )
    index = int(number) if colon else 0
    short = {"directml": "dml"}.get(name.lower(), name if provider == name else name.lower())
    return Target(f"{short}:{index}" if provider in _INDEXED else short, provider, index)


def require_obtained(session: Any, target: Target) -> None:
    """Verify that a session obtained its provider, and that some of the graph runs there.

    Raises:
        DeviceUnavailableError: It did not.
    """
    got = session.get_providers()
    counts = {} if target.provider == CPU else nodes_by_provider(session)
    nothing = set(counts) == {CPU}
    if got[:1] == [target.provider] and not nothing:
        return
    what = "has no kernel for any node of this graph" if nothing else f"fell back to {', '.join(got)}"
    raise DeviceUnavailableError(
        f"the device {target.name!r} is unavailable: {target.provider} {what}",
        cure="Update onnxruntime, export the checkpoint with a lower opset, or request device 'cpu'",
        device=target.name,
        available=tuple(got),
    )


def placement(session: Any) -> str:
    """Return how many nodes of an accelerated session run on the CPU, as text."""
    counts = nodes_by_provider(session)
    if not counts:
        return "not reported by this onnxruntime"
    return f"{counts.get(CPU, 0)} of {sum(counts.values())}"


def nodes_by_provider(session: Any) -> dict[str, int]:
    """Count the nodes of each provider; empty if onnxruntime is too old to report them."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts
