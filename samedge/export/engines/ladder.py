"""Down the precision ladder: the fastest rung of the engines of a bundle that give what the checkpoint gives.

The encoder takes nearly all of the time, of the build and of every image; the decoder is built in seconds. So for each
rung of the encoder the decoder is tried on its fastest rung, and on its safest one that can be built to learn which of
the two is to blame, and then in between. A YOLO is one engine, whose rungs are tried one after the other. Knows engines
as things that are built and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.errors import (
    BackendUnavailableError,
    DeviceUnavailableError,
    EngineError,
    SamedgeError,
    StorageError,
    UsageError,
)

Built = TypeVar("Built")

_ENDS: Final = (BackendUnavailableError, DeviceUnavailableError)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One pair of rungs that was tried.

    Attributes:
        encoder: Rung of the encoder, or of the one engine.
        decoder: Rung of the decoder; empty where there is none, or the encoder could not be built.
        passed: It gives what the checkpoint gives.
        why: What was found, as half a sentence.
    """

    encoder: str
    decoder: str
    passed: bool
    why: str

    def __str__(self) -> str:
        pair = self.encoder if self.decoder in ("", self.encoder) else f"{self.encoder}, decoder {self.decoder}"
        return f"{pair}: {self.why}"


@dataclass(frozen=True, slots=True)
class Descent(Generic[Built]):
    """The end of the ladder.

    Attributes:
        engines: Those that are used, in the order of the roles.
        rungs: Rung of each.
        parity: Their verdict.
        attempts: What was tried, in order.
    """

    engines: tuple[Built, ...]
    rungs: tuple[str, ...]
    parity: ParityRecord
    attempts: tuple[Attempt, ...]


@dataclass(slots=True)
class Ladder(Generic[Built]):
    """The ladder of one bundle on one device.

    Attributes:
        rungs: All rungs, the fastest first.
        build: Builds the engine of a role on a rung, or returns the one that there is.
        judge: Compares what engines give, in the order of the roles, with what the checkpoint gives.
        roles: Encoder and decoder, or the one of a YOLO.
    """

    rungs: Sequence[str]
    build: Callable[[GraphRole, str], Built]
    judge: Callable[..., ParityRecord]
    roles: Sequence[GraphRole] = ("encoder", "decoder")
    _attempts: list[Attempt] = field(default_factory=list)
    _built: dict[tuple[GraphRole, str], Built] = field(default_factory=dict)
    _broken: dict[tuple[GraphRole, str], SamedgeError] = field(default_factory=dict)
    _last: Descent[Built] | None = None

    def descend(self, start: Sequence[str] | None = None) -> Descent[Built]:
        """Return the first engines that pass or, if none do, the last that could be judged.

        Args:
            start: The rung of each role to begin with, from an earlier descent; None for the top.

        Raises:
            EngineError: No pair could be built and judged, or the memory ran out: lower rungs need more of it.
            UsageError: What was asked for means nothing.
        """
        begin = (
            [0] * len(self.roles)
            if start is None or len(start) != len(self.roles)
            else [self._index(rung) for rung in start]
        )
        main = self.roles[0]
        for rung in self.rungs[begin[0] :]:
            engine = self._try_build(main, rung)
            if engine is None:
                self._attempts.append(Attempt(rung, "", False, self._broken[main, rung].what))
                continue
            if len(self.roles) == 1:
                found = self._judge((engine,), (rung,))
            else:
                found = self._with_encoder(engine, rung, self.rungs[begin[-1] :])
            if found is not None:
                return found
        if self._last is None:
            raise next(reversed(self._broken.values()))
        return replace(self._last, attempts=tuple(self._attempts))

    def _index(self, rung: str) -> int:
        return list(self.rungs).index(rung) if rung in self.rungs else 0

    def _with_encoder(self, encoder: Built, rung: str, rungs: Sequence[str]) -> Descent[Built] | None:
        """Return the pair with the fastest decoder that passes, or None if the encoder is to blame."""
        top = self._attempt(encoder, rung, rungs[0])
        if top is not None or len(rungs) == 1:
            return top
        last = len(rungs) - 1
        while last and self._try_build("decoder", rungs[last]) is None:
            self._attempt(encoder, rung, rungs[last])  # writes down why
            last -= 1  # such as on Turing, where TensorRT for RTX has no float32
        safest = self._attempt(encoder, rung, rungs[last]) if last else None
        if safest is None:
            return None
        for between in rungs[1:last]:
            better = self._attempt(encoder, rung, between)
            if better is not None:
                return better
        return replace(safest, attempts=tuple(self._attempts))

    def _attempt(self, encoder: Built, rung: str, decoder_rung: str) -> Descent[Built] | None:
        """Return the pair if it passes, and writes down what was found."""
        decoder = self._try_build("decoder", decoder_rung)
        if decoder is None:
            why = f"the decoder could not be built ({self._broken['decoder', decoder_rung].what})"
            self._attempts.append(Attempt(rung, decoder_rung, False, why))
            return None
        return self._judge((encoder, decoder), (rung, decoder_rung))

    def _judge(self, engines: tuple[Built, ...], rungs: tuple[str, ...]) -> Descent[Built] | None:
        """Return the engines if they pass, and writes down what was found."""
        first, second = rungs[0], rungs[1] if len(rungs) > 1 else ""
        try:
            parity = self.judge(*engines)
        except _ENDS:
            raise
        except EngineError as error:
            self._broken[self.roles[-1], " with ".join(rungs)] = error
            self._attempts.append(Attempt(first, second, False, f"it could not be run ({error.what})"))
            return None
        passed = parity.verdict == "passed"
        self._attempts.append(Attempt(first, second, passed, describe(parity)))
        found = Descent(engines, rungs, parity, tuple(self._attempts))
        self._last = found
        return found if passed else None

    def _try_build(self, role: GraphRole, rung: str) -> Built | None:
        """Return an engine, built once; None if this rung cannot be built, where another may be."""
        key = (role, rung)
        if key not in self._built and key not in self._broken:
            try:
                self._built[key] = self.build(role, rung)
            except (*_ENDS, StorageError):
                raise
            except EngineError as error:
                if error.facts.get("memory") or error.facts.get("cancelled"):
                    raise
                self._broken[key] = error
            except UsageError as error:
                if not self._attempts:
                    raise  # what was asked for means nothing on any rung
                self._broken[key] = error
        return self._built.get(key)


def describe(parity: ParityRecord) -> str:
    """Return a verdict as half a sentence."""
    if parity.verdict == "unchecked":
        return "not checked"
    if "box_error_max" in parity.thresholds:
        return (
            f"{parity.verdict}, boxes off by up to {parity.box_error_max:.2g} px, scores by "
            f"{parity.score_error_max:.2g}, mask IoU {parity.mask_iou_mean:.4f} on average"
        )
    return (
        f"{parity.verdict}, mask IoU {parity.mask_iou_mean:.4f} on average and {parity.mask_iou_decile:.4f} in the "
        f"worst tenth, predicted IoU off by up to {parity.iou_error_max:.2g}"
    )
