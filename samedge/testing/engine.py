"""An engine that is a Python function: for tests of everything above the engines, ours and the users'.

    def double(feeds):
        return {"y": feeds["x"] * 2}

    spec = TensorSpec(("batch", 4), np.dtype(np.float32))
    engine = fake_engine({"x": spec}, {"y": spec}, double)
    engine.run({"x": np.ones((1, 4), np.float32)})

It is held to the same contract as a real backend: feeds are checked before the function sees them, and what the
function returns is checked against the outputs that it announced, so that a test cannot pass on a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from samedge.engines.protocol import Engine
from samedge.errors import EngineError, TensorMismatchError
from samedge.types import Array, TensorSpec

FakeFunction: TypeAlias = Callable[[dict[str, Array]], Mapping[str, Array]]


class FakeEngine:
    """A `RawEngine` that calls a Python function.

    Args:
        inputs: Input name to shape and dtype.
        outputs: Output name to shape and dtype.
        function: Given the feeds by name, returns every output by name.
        device: What the engine says of its device.

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
        self.details: Mapping[str, str] = {}  # no runtime to report
        self.calls: list[dict[str, Array]] = []
        self.closed = False

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Call the function and returns the outputs that were asked for.

        Raises:
            TensorMismatchError: The function did not return what the engine announces.
        """
        if self.closed:
            raise EngineError("this fake engine was run after it was closed")
        self.calls.append(dict(feeds))
        results = self._function(dict(feeds))
        if results.keys() != self.outputs.keys():
            raise TensorMismatchError(
                f"the function of this fake engine returned {sorted(results)}, and announces {sorted(self.outputs)}"
            )
        for name, spec in self.outputs.items():
            array = results[name]
            if array.dtype != spec.dtype or not spec.accepts(array.shape):
                have = TensorSpec(array.shape, array.dtype)
                raise TensorMismatchError(
                    f"the function of this fake engine returned {have} as {name!r}, and announces {spec}"
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
    """Return an `Engine` that calls a Python function; the arguments are those of `FakeEngine`."""
    return Engine(FakeEngine(inputs, outputs, function, device=device), backend="fake", name=name)
