"""Installed CUDA bindings, and the opening of a GPU through them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from samedge.engines.cuda.memory import CudaMemory, device_index
from samedge.errors import MissingExtraError

PROVIDERS: Final = ("cuda-python", "pycuda")


def open_cuda(device: str | None = None, provider: str | None = None) -> CudaMemory:
    """Open a GPU.

    Args:
        device: "cuda" or "cuda:1"; None for the first GPU.
        provider: "cuda-python" or "pycuda"; None for the first one installed.

    Raises:
        MissingExtraError: No provider, or not the one named, is installed.
        DeviceUnavailableError: There is no driver, or no such GPU.
    """
    index = device_index(device)
    if provider is None:
        provider = next((name for name in PROVIDERS if _installed(name)), None)
    if provider is None or provider not in PROVIDERS or not _installed(provider):
        raise MissingExtraError(
            f"the CUDA bindings {f'{provider!r} are' if provider else 'cuda-python are'} not installed",
            cure="Install them with: pip install cuda-bindings (or pycuda)",
            module=provider or "cuda-python",
        )
    if provider == "pycuda":
        from samedge.engines.cuda.pycuda import PycudaMemory

        return PycudaMemory(index)
    from samedge.engines.cuda.cuda_python import CudaPythonMemory

    return CudaPythonMemory(index)


def _installed(provider: str) -> bool:
    names: dict[str, tuple[str, ...]] = {"cuda-python": ("cuda.bindings.runtime", "cuda.cudart"), "pycuda": ("pycuda",)}
    return any(_found(name) for name in names[provider])


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False
