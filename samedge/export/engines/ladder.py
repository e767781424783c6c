"""The precision ladder of engines: descent to the fastest rung that reproduces the checkpoint's output.

The encoder takes nearly all of the time, of builds and of images; the decoder is built in seconds. So for each rung of
the encoder the decoder is tried on its fastest rung, then on its safest one that can be built, which shows which of the
two fails, and then in between. A YOLO is one engine, whose rungs are tried in order.
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
    """A pair of rungs that was tried.

    Attributes:
        encoder: Rung of the encoder, or of the only engine.
        decoder: Rung of the decoder; empty if there is none, or the encoder could not be built.
        passed: It reproduces the checkpoint's output.
        why: The finding, as half a sentence.
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
    """The end of a descent.

    Attributes:
        engines: The engines to use, in the order of the roles.
        rungs: The rung of each.
        parity: Their verdict.
        attempts: All attempts, in order.
    """

    engines: tuple[Built, ...]
    rungs: tuple[str, ...]
    parity: ParityRecord
    attempts: tuple[Attempt, ...]


@dataclass(slots=True)
class Ladder(Generic[Built]):
    """The ladder of one bundle on one device.

    Attributes:
        rungs: All rungs, fastest first.
        build: Builds the engine of a role on a rung, or returns an existing one.
        judge: Compares engines, in the order of the roles, with the checkpoint.
        roles: Encoder and decoder, or the only role.
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
            start: The first rung of each role, from an earlier descent; None for the top.

        Raises:
            EngineError: No pair could be built and judged, or memory ran out, of which lower rungs need more.
            UsageError: The options do not apply on any rung.
        """
        known = start if start is not None and len(start) == len(self.roles) else [""] * len(self.roles)
        begin = [self.rungs.index(rung) if rung in self.rungs else 0 for rung in known]
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

    def _with_encoder(self, encoder: Built, rung: str, rungs: Sequence[str]) -> Descent[Built] | None:
        """Return the pair with the fastest decoder that passes; None if the encoder fails."""
        top = self._attempt(encoder, rung, rungs[0])
        if top is not None or len(rungs) == 1:
            return top
        last = len(rungs) - 1
        while last and self._try_build("decoder", rungs[last]) is None:
            self._attempt(encoder, rung, rungs[last])  # records why
            last -= 1  # as on Turing, where TensorRT for RTX has no float32
        safest = self._attempt(encoder, rung, rungs[last]) if last else None
        if safest is None:
            return None
        for between in rungs[1:last]:
            better = self._attempt(encoder, rung, between)
            if better is not None:
                return better
        return replace(safest, attempts=tuple(self._attempts))

    def _attempt(self, encoder: Built, rung: str, decoder_rung: str) -> Descent[Built] | None:
        """Return the pair if it passes, and record the attempt."""
        decoder = self._try_build("decoder", decoder_rung)
        if decoder is None:
            why = f"the decoder could not be built ({self._broken['decoder', decoder_rung].what})"
            self._attempts.append(Attempt(rung, decoder_rung, False, why))
            return None
        return self._judge((encoder, decoder), (rung, decoder_rung))

    def _judge(self, engines: tuple[Built, ...], rungs: tuple[str, ...]) -> Descent[Built] | None:
        """Return the engines if they pass, and record the attempt."""
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
        """Return an engine, built once; None if it cannot be built on this rung but perhaps on another."""
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
                    raise  # the options do not apply on any rung
                self._broken[key] = error
        return self._built.get(key)


def describe(parity: ParityRecord) -> str:
    """Describe a verdict in half a sentence."""
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
