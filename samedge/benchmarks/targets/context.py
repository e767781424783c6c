"""State shared by all rows of the benchmark: settings, artefacts, and memory already measured."""

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
    """Settings of the measurement.

    Attributes:
        threads: CPU threads of every contender; None leaves baselines their default and gives samedge all cores.
        memory: Also measure memory, in child processes.
        masks_of: Trained weights whose masks are compared.
        form: Form of global attention in samedge's encoders.
        everything_points: Points along each side of the grid for models other than `masks_of`.
        models: Weights used in place of each row's own.
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
    """A run of the benchmark."""

    settings: Settings
    artefacts: Artefacts
    say: Callable[[str], None] = lambda _: None
    _memory: dict[bytes, MemoryUse] = field(default_factory=dict)

    def memory(self, variant: Variant) -> MemoryUse | None:
        """Return the memory use of a variant, measured once; None if memory is not measured."""
        if not self.settings.memory:
            return None
        key = msgspec.json.encode([variant.target, variant.arguments])
        if key not in self._memory:
            self.say(f"Measuring the memory of {variant.name}")
            self._memory[key] = variant.memory()
        return self._memory[key]

    def interleave(self, contenders: list[Contender]) -> dict[str, Timing]:
        """Time contenders in turn; the first is the baseline."""
        settings = self.settings
        names, total = ", ".join(contender.name for contender in contenders), settings.warm_ups + settings.rounds
        return interleave(
            contenders,
            settings.rounds,
            warm_ups=settings.warm_ups,
            report=lambda turn: self.say(f"Round {turn} of {total}: {names}"),
        )


def missing_backend(name: str) -> str:
    """Return the reason and the cure for an unavailable backend; empty if it is available."""
    state = availability(name)
    return "" if state.ok else ". ".join(part for part in (state.reason, state.cure) if part)


def cpu_backends() -> list[str]:
    """Return the available CPU backends."""
    names = [name for name in CPU_BACKENDS if not missing_backend(name)]
    if not names:
        raise BenchmarkError("no CPU backend is available", cure=missing_backend(CPU_BACKENDS[0]))
    return names
