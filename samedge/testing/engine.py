"""An engine backed by a Python function, for testing everything above the engines without a runtime.

    def double(feeds):
        return {"y": feeds["x"] * 2}

    spec = TensorSpec(("batch", 4), np.dtype(np.float32))
    engine = fake_engine({"x": spec}, {"y": spec}, double)
    engine.run({"x": np.ones((1, 4), np.float32)})

It is held to the same contract as a real backend: feeds are checked before the function sees them, and the function's
results are checked against the declared outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from samedge.engines.protocol import Engine, shape_fits
from samedge.errors import EngineError, TensorMismatchError
from samedge.types import Array, TensorSpec

FakeFunction: TypeAlias = Callable[[dict[str, Array]], Mapping[str, Array]]


class FakeEngine:
    """A `RawEngine` that calls a Python function.

    Args:
        inputs: Input name to shape and dtype.
        outputs: Output name to shape and dtype.
        function: Maps the feeds by name to every output by name.
        device: The device that the engine reports.

    Attributes:
        calls: The feeds of every call so far, oldest first.
        closed: Whether `close` was called.
    """

    def __init__(
        self,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        function: FakeFunction,
        *,
        device: str = "cpu",
    ) -> None:
        self.inputs = dict(inputs)
        self.outputs = dict(outputs)
        self._function = function
        self.device = device
        self.details: Mapping[str, str] = {}  # no runtime to describe
        self.calls: list[dict[str, Array]] = []
        self.closed = False

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Call the function and return the requested outputs.

        Raises:
            TensorMismatchError: The results differ from the declared outputs.
        """
        if self.closed:
            raise EngineError("this fake engine is closed", cure="Create a new one with fake_engine")
        self.calls.append(dict(feeds))
        results = self._function(dict(feeds))
        if results.keys() != self.outputs.keys():
            raise TensorMismatchError(
                f"the fake engine's function returned {sorted(results)} but declares {sorted(self.outputs)}",
                cure="Return exactly the declared outputs",
            )
        for name, spec in self.outputs.items():
            array = results[name]
            if array.dtype != spec.dtype or not shape_fits(array.shape, spec):
                have = TensorSpec(array.shape, array.dtype)
                raise TensorMismatchError(
                    f"the fake engine's function returned {have} as {name!r} but declares {spec}",
                    cure="Return arrays of the declared shape and dtype",
                )
        return {name: results[name] for name in outputs}

    def close(self) -> None:
        """Refuse every later call."""
        self.closed = True


def fake_engine(
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    function: FakeFunction,
    *,
    device: str = "cpu",
    name: str = "fake",
) -> Engine:
    """Return an `Engine` that calls a Python function; see `FakeEngine` for the arguments."""
    return Engine(FakeEngine(inputs, outputs, function, device=device), backend="fake", name=name)
