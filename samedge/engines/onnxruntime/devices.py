"""Devices as onnxruntime knows them, by the names that users give, and what a session really got of them."""

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
    """A device as onnxruntime knows it. `name` is what reports call it: "cpu", "cuda:0"."""

    name: str
    provider: str
    index: int

    def providers(self, own: OwnStream | None = None) -> list[str | tuple[str, dict[str, str]]]:
        """The list for a session, on that stream if there is one. The CPU is last, for nodes without another kernel."""
        if self.provider == CPU:
            return [CPU]
        options: dict[str, str] = {}
        if self.provider in _INDEXED:
            options["device_id"] = str(self.index)
        if self.provider == CUDA:
            # The exhaustive search of convolutions makes the first call of every new shape take seconds, and arena
            # blocks that double hold memory that a board shares with its CPU.
            options |= {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
            options |= {} if own is None else own.provider_options()
        chain: list[str | tuple[str, dict[str, str]]] = [(self.provider, options)]
        if self.provider == TENSORRT:
            chain.append((CUDA, {"device_id": str(self.index)}))
        return [*chain, CPU]


def parse_device(device: str) -> Target:
    """Return the device of a name such as "cuda:1".

    Raises:
        DeviceUnavailableError: onnxruntime has none of this name.
    """
    name, colon, number = device.partition(":")
    provider = name if name.endswith("ExecutionProvider") else PROVIDERS.get(name.lower())
    if provider is None or (colon and not number.isdecimal()):
        raise DeviceUnavailableError(
            f"onnxruntime knows no device {device!r}",
            cure=f"Choose one of {', '.join(PROVIDERS)}, with a number as in cuda:1 where there are several",
            device=device,
        )
    if colon and provider not in _INDEXED:
        raise DeviceUnavailableError(
            f"onnxruntime's device {name!r} takes no number", where=device, cure=f"Ask for {name!r}", device=device
        )
    index = int(number) if colon else 0
    short = {"directml": "dml"}.get(name.lower(), name if provider == name else name.lower())
    return Target(f"{short}:{index}" if provider in _INDEXED else short, provider, index)


def require_obtained(session: Any, target: Target) -> None:
    """Ask the session of the real graph what it got, and whether any of the graph runs there.

    Raises:
        DeviceUnavailableError: Not what was asked for.
    """
    got = session.get_providers()
    counts = {} if target.provider == CPU else nodes_by_provider(session)
    nothing = set(counts) == {CPU}
    if got[:1] == [target.provider] and not nothing:
        return
    what = "has no kernel for any node of this graph" if nothing else f"gave way to {', '.join(got)}"
    raise DeviceUnavailableError(
        f"the device {target.name!r} cannot be had: {target.provider} {what}",
        cure="Update onnxruntime, export the checkpoint with a lower opset, or ask for device 'cpu'",
        device=target.name,
        available=tuple(got),
    )


def placement(session: Any) -> str:
    """Say how many nodes run on the CPU although the session runs elsewhere."""
    counts = nodes_by_provider(session)
    if not counts:
        return "not told by this onnxruntime"
    return f"{counts.get(CPU, 0)} of {sum(counts.values())}"


def nodes_by_provider(session: Any) -> dict[str, int]:
    """Count the nodes of each provider; empty where onnxruntime is too old to tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts
