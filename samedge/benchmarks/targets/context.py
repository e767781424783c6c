"""What all rows of a benchmark share: options, artefacts, and memory that was measured already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from samedge.benchmarks.measure.artefacts import Artefacts
from samedge.benchmarks.measure.memory import MemoryUse
from samedge.benchmarks.measure.rounds import WARM_UPS, Contender, Timing, interleave
from samedge.benchmarks.targets.variants import Variant
from samedge.engines.registry import availability
from samedge.errors import BenchmarkError

CPU_BACKENDS: Final = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: Rounds that count.
        warm_ups: Rounds before them that do not.
        threads: CPU threads of every contender; None leaves baselines their default and gives ours all cores.
        memory: Measure memory too, in child processes.
        masks_of: Weights whose masks are compared: trained ones.
        form: How global attention is laid out in our encoders.
        everything_points: Points along each side of the grid for models other than `masks_of`.
        models: In place of those that each row names.
    """

    rounds: int = 5
    warm_ups: int = WARM_UPS
    threads: int | None = 1
    memory: bool = True
    masks_of: str = "sam_demo"
    form: str = "chunked"
    everything_points: int = 8
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bench:
    """A run of the benchmark.

    Attributes:
        settings: How to measure.
        artefacts: Makes and finds graphs.
        say: Called with a sentence about what is being done.
    """

    settings: Settings
    artefacts: Artefacts
    say: Callable[[str], None] = lambda _: None
    _memory: dict[bytes, MemoryUse] = field(default_factory=dict)

    def memory(self, variant: Variant) -> MemoryUse | None:
        """Return what a variant needs, measured once; None where memory is not wanted."""
        if not self.settings.memory:
            return None
        key = msgspec.json.encode([variant.target, variant.arguments])
        if key not in self._memory:
            self.say(f"Memory of {variant.name}")
            self._memory[key] = variant.memory()
        return self._memory[key]

    def interleave(self, contenders: list[Contender]) -> dict[str, Timing]:
        """Times contenders in turn; the first is the baseline."""
        settings = self.settings
        names, total = ", ".join(contender.name for contender in contenders), settings.warm_ups + settings.rounds
        return interleave(
            contenders,
            settings.rounds,
            warm_ups=settings.warm_ups,
            report=lambda turn: self.say(f"Round {turn} of {total}: {names}"),
        )


def missing_backend(name: str) -> str:
    """Return why a backend does not work here, and what to do; empty if it does."""
    found = availability(name)
    return "" if found.ok else ". ".join(part for part in (found.reason, found.cure) if part)


def cpu_backends() -> list[str]:
    """Return the CPU backends that work here.

    Raises:
        BenchmarkError: None does.
    """
    names = [name for name in CPU_BACKENDS if not missing_backend(name)]
    if not names:
        raise BenchmarkError("no backend for processors works here", cure=missing_backend(CPU_BACKENDS[0]))
    return names
