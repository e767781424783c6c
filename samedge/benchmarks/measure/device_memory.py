"""Memory on NVIDIA's GPUs, as their driver tells it through NVML; nothing is known of other accelerators."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def _driver() -> Iterator[tuple[Any, list[Any]]]:
    """Give NVML and its handles of the GPUs.

    Raises:
        LookupError: The package or the driver is not there.
    """
    try:
        import pynvml
    except ModuleNotFoundError as error:
        raise LookupError("the package nvidia-ml-py is not installed: pip install 'samedge[bench]'") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise LookupError(f"NVIDIA's driver does not answer: {error}") from error
    try:
        yield pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise LookupError(f"NVIDIA's driver does not answer: {error}") from error
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def used_device_bytes(before: int | None, *, pid: int | None = None) -> int | None:
    """Return the device memory of a process; None where it is unknown, and `why_unknown` tells why.

    In a container the driver knows the process under another number. Then it is what all processes use now, less what
    they used before, which is right as long as no other program changes its share meanwhile.

    Args:
        before: What all processes used before this one did; None to be told what they use now.
        pid: The process; None for this one.
    """
    with suppress(LookupError), _driver() as (nvml, gpus):
        own, used = [], []
        for gpu in gpus:
            with suppress(nvml.NVMLError):  # a Jetson, whose memory is the system's
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
    """Return why `used_device_bytes` has no answer here."""
    try:
        with _driver():
            return "NVIDIA's driver does not report memory: on a Jetson it is the system's"
    except LookupError as error:
        return str(error)


def device_bytes_of(device: str, before: int | None) -> Callable[[], int | None]:
    """Return what tells the memory on an accelerator; on a processor there is none.

    Args:
        device: The device really used.
        before: What all processes used there before the model was loaded.
    """
    if device.lower().startswith("cpu"):
        return lambda: None
    return lambda: used_device_bytes(before)
