"""torch as a backend, so that samedge is compared with it on the same GPU through the same surrounding code.

Modules run unchanged ("eager") or through ``torch.compile``. As with the other backends, tensors stay on the device
between encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from samedge.benchmarks.gpu.cuda_checks import kept_open
from samedge.engines.cuda.borrowed import borrow
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import Exporter
from samedge.engines.cuda.memory import CudaMemory
from samedge.engines.cuda.pool import DevicePool
from samedge.engines.protocol import Engine
from samedge.errors import BenchmarkError, EngineError, missing_extra
from samedge.testing.predictor import decoder_specs
from samedge.types import Array, TensorSpec

_F32: Final = np.dtype(np.float32)


def require_torch_device(device: str) -> Any:
    """Return the module torch, if it is installed and supports the device."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise missing_extra("torch", "bench", "Measuring against torch") from error
    if not device.startswith("cpu") and not torch.cuda.is_available():
        raise BenchmarkError(
            f"torch {torch.__version__} finds no GPU", cure="Install a build of torch for this GPU (pytorch.org)"
        )
    return torch


class TorchArray(DeviceArray):
    """A tensor on torch's device. It may be incomplete: `wait` waits for all of torch's work."""

    def __init__(self, tensor: Any, device: str) -> None:
        super().__init__(tuple(tensor.shape), np.dtype(str(tensor.dtype).removeprefix("torch.")), device)
        self._tensor: Any = tensor.contiguous()

    @property
    def tensor(self) -> Any:
        """The tensor."""
        if self._tensor is None:
            raise EngineError("this device array was closed", cure="Run the engine again")
        return self._tensor

    @property
    def address(self) -> int:
        """Device address."""
        return int(self.tensor.data_ptr())

    def wait(self) -> None:
        """Wait until the tensor is complete."""
        if self.tensor.is_cuda:
            import torch

            torch.cuda.synchronize(self.tensor.device)

    def numpy(self) -> Array:
        """Return a copy on the host."""
        array: Array = self.tensor.to("cpu", copy=True).numpy()
        return array

    def pick(self, rows: Sequence[int]) -> TorchArray:
        """Return a copy of the given entries of the first axis."""
        return TorchArray(self.tensor[list(rows)], self.device)

    def hold(self) -> Callable[[], None]:
        """Keep the memory until the returned function is called."""
        held = [self.tensor]
        return held.clear

    def close(self) -> None:
        """Release the memory."""
        self._tensor = None


class TorchEngine:
    """A function of tensors as an engine.

    Args:
        function: Takes tensors in the order of the inputs, returns one or several in the order of the outputs.
        mode: "eager" or "compile".
        half: Compute in float16 by torch's autocast; inputs and outputs stay float32.
    """

    keeps_on_device = True

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        device: str,
        mode: str,
        *,
        half: bool = False,
    ) -> None:
        self._torch = require_torch_device(device)
        self._function = self._torch.compile(function, dynamic=False) if mode == "compile" else function
        self._half = half
        self.inputs, self.outputs = inputs, outputs
        self.device = self.array_device = device
        self.details = {
            "torch": str(self._torch.__version__),
            "mode": mode,
            "precision": "fp16 (autocast)" if half else "fp32",
        }
        self.axis_limits: Mapping[str, tuple[int, int]] = {}

    def run(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the function and copy the results to the host."""
        return {name: array.numpy() for name, array in self.run_on_device(feeds, outputs).items()}

    def run_on_device(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Run the function and leave the results on the device."""
        tensors = [self._tensor(feeds[name]) for name in self.inputs]
        try:
            with self._torch.inference_mode(), self._autocast():
                results = self._function(*tensors)
        except RuntimeError as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            cure = "Use another contender or device, or a smaller model"
            raise EngineError(f"torch failed: {first}", cure=cure, kind=type(error).__name__) from error
        results = results if isinstance(results, tuple) else (results,)
        named = dict(zip(self.outputs, results, strict=True))
        # As in the exported graphs, the next engine gets float32, also where autocast left float16.
        return {name: TorchArray(named[name].to(self._dtype_of(name)), self.device) for name in outputs}

    def _autocast(self) -> Any:
        kind = self.device.partition(":")[0]
        return self._torch.autocast(kind, dtype=self._torch.float16, enabled=self._half)

    def _dtype_of(self, name: str) -> Any:
        return getattr(self._torch, self.outputs[name].dtype.name)

    def _tensor(self, array: Array | DeviceArray) -> Any:
        if isinstance(array, TorchArray):
            return array.tensor
        return self._torch.from_dlpack(array) if isinstance(array, DeviceArray) else self._upload(array)

    def _upload(self, array: Array) -> Any:
        return self._torch.from_numpy(array).to(self.device, copy=True)

    def to_device(self, array: Array) -> DeviceArray:
        """Return a copy of a host array on the device."""
        return TorchArray(self._upload(array), self.device)

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Return an array that shares memory of another library."""
        return TorchArray(self._torch.from_dlpack(exporter), self.device)

    def close(self) -> None:
        """Release the modules."""
        self._function = self._closed

    @staticmethod
    def _closed(*_: object) -> Any:
        raise EngineError("this engine was closed", cure="Open it again")


def torch_engines(source: str, device: str, mode: str, *, half: bool = False) -> tuple[Engine, Engine]:
    """Return the encoder and the whole decoder of a checkpoint in torch, with the tensor names of the native scheme."""
    require_torch_device(device)
    from samedge.models.sam.load import load_model

    sam: Any = load_model(source).model.to(device).requires_grad_(requires_grad=False)
    size, grid = sam.image_size, sam.embedding_size
    side, channels = 4 * grid, sam.prompt_encoder.embed_dim
    embedding = TensorSpec(("batch", channels, grid, grid), _F32)
    image = {"image": TensorSpec(("batch", 3, size, size), _F32)}
    encoder = TorchEngine(sam.encode, image, {"image_embeddings": embedding}, device, mode, half=half)
    prompts, masks = decoder_specs(TensorSpec((1, channels, grid, grid), _F32), side)
    decoder = TorchEngine(sam.decode, prompts, masks, device, mode, half=half)
    name = f"torch {mode}"
    return (
        Engine(encoder, backend=name, name=f"{source} encoder"),
        Engine(decoder, backend=name, name=f"{source} decoder"),
    )


def check_torch(memory: CudaMemory) -> None:
    """Check that torch reads samedge's arrays, and samedge torch's, each after the other's work."""
    device = f"cuda:{memory.gpu.index}"
    torch = require_torch_device(device)
    pool = DevicePool(kept_open(memory))
    value = np.random.default_rng(9).random(1 << 16, np.float32)
    for _ in range(10):
        theirs = torch.from_dlpack(pool.upload(value))
        ours = borrow(torch.from_numpy(value).to(device) * 3, pool)
        if not (np.array_equal((theirs * 2).cpu().numpy(), value * 2) and np.array_equal(ours.numpy(), value * 3)):
            raise EngineError("torch and samedge do not see the same numbers", cure="Report this")
    del theirs, ours
    pool.close()
