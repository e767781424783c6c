"""Progress of a build, from the nested phases that TensorRT reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from samedge.engines.tensorrt.protocols import TensorRtModule
from samedge.types import Progress


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTree:
    """A tree of phases that sums nested progress to one share that never falls.

    A running phase counts towards one step of its parent. TensorRT reports from several threads.

    Args:
        progress: Called on each change.
        cancelled: Polled at each step; True ends the build.

    Attributes:
        cancelled: As given.
    """

    def __init__(self, progress: Progress, cancelled: Callable[[], bool] = lambda: False) -> None:
        self._progress = progress
        self.cancelled = cancelled
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0
        self._lock = Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))
            self._report(name)

    def step(self, name: str, step: int) -> bool:
        """Complete a step of a phase, counted from 0; return False to end the build."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = min(phase.steps, max(phase.done, step + 1))
                self._report(name)
        return not self.cancelled()

    def finish(self, name: str) -> None:
        """End a phase."""
        with self._lock:
            self._phases.pop(name, None)

    def complete(self) -> None:
        """Report the build as complete."""
        self._progress("Built", 1.0)

    def _report(self, name: str) -> None:
        share = 0.0
        at: str | None = name
        while at is not None and (phase := self._phases.get(at)) is not None:
            share = min(1.0, (phase.done + share) / phase.steps)
            at = phase.parent
        self._share = max(self._share, share)
        self._progress(name, self._share)


def attach_monitor(module: TensorRtModule, tree: PhaseTree) -> Any:
    """Return a progress monitor for TensorRT 10 or newer that updates the tree."""
    base: Any = module.IProgressMonitor  # type: ignore[attr-defined]  # absent in 8.6

    class Monitor(base):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            # pybind11 requires an explicit call of its constructor.
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tree.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return tree.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            tree.finish(phase_name)

    return Monitor()
