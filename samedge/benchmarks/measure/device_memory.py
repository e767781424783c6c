"""Memory use on NVIDIA GPUs, as their driver reports it through NVML; unavailable for other accelerators."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def _driver() -> Iterator[tuple[Any, list[Any]]]:
    """Yield NVML and its handles of the GPUs; raise LookupError if the package or the driver is missing."""
    try:
        import pynvml
    except ModuleNotFoundError as error:
        raise LookupError("the package nvidia-ml-py is not installed: pip install 'samedge[bench]'") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise LookupError(f"NVIDIA's driver does not respond: {error}") from error
    try:
        yield pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise LookupError(f"NVIDIA's driver does not respond: {error}") from error
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def used_device_bytes(before: int | None, *, pid: int | None = None) -> int | None:
    """Return the device memory of a process (None for this one); None if unknown, for the reason of `why_unknown`.

    In a container the driver knows the process by another id. The result is then the increase in the use by all
    processes, which is right as long as no other program changes its share meanwhile.

    Args:
        before: Use by all processes before this one started; None to return the present use by all processes.
        pid: The process; None for this one.
    """
    with suppress(LookupError), _driver() as (nvml, gpus):
        own, used = [], []
        for gpu in gpus:
            with suppress(nvml.NVMLError):  # a Jetson, which shares the system's memory
                used.append(nvml.nvmlDeviceGetMemoryInfo(gpu).used)
                listed = nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
                own += [one.usedGpuMemory for one in listed if one.pid == (os.getpid() if pid is None else pid)]
        known = [size for size in own if size is not None]
        if before is not None and known:
            return int(sum(known))
        if used:
            return int(sum(used)) - (before or 0)
    return None


def why_unknown() -> str:
    """Return the reason why `used_device_bytes` is unavailable here."""
    try:
        with _driver():
            return "NVIDIA's driver does not report memory: on a Jetson it is the system's"
    except LookupError as error:
        return str(error)


def device_bytes_of(device: str, before: int | None) -> Callable[[], int | None]:
    """Return a function that reads the memory use on an accelerator, and None for a CPU; see `used_device_bytes`."""
    if device.lower().startswith("cpu"):
        return lambda: None
    return lambda: used_device_bytes(before)
