"""The precision ladder: which pairs are tried, in which order, and where it ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.errors import BackendUnavailableError, EngineError, StorageError, UsageError
from samedge.export.engines.ladder import Attempt, Descent, Ladder, describe

RUNGS = ("fp16", "fp16-norms", "fp16-attention", "fp32")
Pair = tuple[str, str]


class Device:
    """Builds names, and judges them by a rule."""

    def __init__(self, passes: Callable[[str, str], bool], errors: dict[Pair, EngineError] | None = None) -> None:
        self.passes = passes
        self.errors = errors or {}
        self.built: list[Pair] = []
        self.judged: list[Pair] = []

    def build(self, role: GraphRole, rung: str) -> str:
        self.built.append((role, rung))
        if (role, rung) in self.errors:
            raise self.errors[role, rung]
        return rung

    def judge(self, encoder: str, decoder: str) -> ParityRecord:
        self.judged.append((encoder, decoder))
        if (encoder, decoder) in self.errors:
            raise self.errors[encoder, decoder]
        passed = self.passes(encoder, decoder)
        return ParityRecord(verdict="passed" if passed else "failed", mask_iou_mean=1.0 if passed else 0.5)

    def descend(self, start: Pair | None = None, rungs: tuple[str, ...] = RUNGS) -> Descent[str]:
        return Ladder(rungs, self.build, self.judge).descend(start)


def safe_from(encoder: int, decoder: int) -> Callable[[str, str], bool]:
    """Passes where both are at least so far down."""
    return lambda one, two: RUNGS.index(one) >= encoder and RUNGS.index(two) >= decoder


def test_the_top_is_used_where_it_passes() -> None:
    device = Device(safe_from(0, 0))
    found = device.descend()
    assert (found.rungs, found.parity.verdict) == (("fp16", "fp16"), "passed")
    assert device.built == [("encoder", "fp16"), ("decoder", "fp16")]
    assert [str(attempt) for attempt in found.attempts] == [
        "fp16: passed, mask IoU 1.0000 on average and 0.0000 in the worst tenth, predicted IoU off by up to 0"
    ]


@pytest.mark.parametrize(
    ("safe", "judged"),
    [
        # The decoder alone is to blame: the encoder is built once.
        ((0, 1), ["fp16 fp16", "fp16 fp32", "fp16 fp16-norms"]),
        ((0, 2), ["fp16 fp16", "fp16 fp32", "fp16 fp16-norms", "fp16 fp16-attention"]),
        ((0, 3), ["fp16 fp16", "fp16 fp32", "fp16 fp16-norms", "fp16 fp16-attention"]),
        # The encoder alone: next to the safest decoder it fails as well, and the next one is built.
        ((1, 0), ["fp16 fp16", "fp16 fp32", "fp16-norms fp16"]),
        ((3, 0), ["fp16 fp16", "fp16 fp32", "fp16-norms fp16", "fp16-norms fp32", "fp16-attention fp16",
                  "fp16-attention fp32", "fp32 fp16"]),
        ((1, 1), ["fp16 fp16", "fp16 fp32", "fp16-norms fp16", "fp16-norms fp32", "fp16-norms fp16-norms"]),
    ],
)  # fmt: skip
def test_it_is_found_out_which_of_the_two_is_to_blame(safe: tuple[int, int], judged: list[str]) -> None:
    device = Device(safe_from(*safe))
    found = device.descend()
    assert found.rungs == (RUNGS[safe[0]], RUNGS[safe[1]])
    assert found.parity.verdict == "passed"
    assert [" ".join(pair) for pair in device.judged] == judged
    assert len(device.built) == len(set(device.built)), "an engine is built once"
    assert [attempt.passed for attempt in found.attempts].count(True) >= 1
    assert len(found.attempts) == len(judged)


def test_where_nothing_passes_the_last_pair_is_returned_as_failed() -> None:
    device = Device(lambda _one, _two: False)
    found = device.descend()
    assert (found.rungs, found.parity.verdict) == (("fp32", "fp32"), "failed")
    assert len(found.attempts) == 8
    assert not any(attempt.passed for attempt in found.attempts)


def test_it_starts_where_the_last_one_ended() -> None:
    device = Device(safe_from(1, 3))
    first = device.descend()
    assert first.rungs == ("fp16-norms", "fp32")
    device.judged.clear()
    assert device.descend(first.rungs).rungs == first.rungs
    assert device.judged == [("fp16-norms", "fp32")]


def test_a_rung_that_is_not_known_any_more_is_the_top() -> None:
    assert Device(safe_from(0, 0)).descend(("fp12", "fp12")).rungs == ("fp16", "fp16")


def test_one_rung_is_no_ladder() -> None:
    device = Device(lambda _one, _two: False)
    found = device.descend(rungs=("fp32",))
    assert (found.rungs, found.parity.verdict, len(found.attempts)) == (("fp32", "fp32"), "failed", 1)


def test_a_rung_that_cannot_be_built_is_passed_over() -> None:
    errors: dict[Pair, EngineError] = {
        ("encoder", "fp16"): EngineError("the compiler crashed"),
        ("decoder", "fp16"): EngineError("no kernel"),
    }
    device = Device(safe_from(0, 0), errors)
    found = device.descend()
    assert found.rungs == ("fp16-norms", "fp16-norms")
    assert [str(attempt).partition(", mask")[0] for attempt in found.attempts] == [
        "fp16: the compiler crashed",
        "fp16-norms, decoder fp16: the decoder could not be built (no kernel)",
        "fp16-norms, decoder fp32: passed",
        "fp16-norms: passed",
    ]


def test_the_safest_decoder_is_the_last_that_can_be_built() -> None:
    """On Turing TensorRT for RTX has no float32 products: the decoder's next rung is still found."""
    errors: dict[Pair, EngineError] = {
        ("decoder", "fp32"): EngineError("zeros"), ("decoder", "fp16-attention"): EngineError("no fp32 gemm"),
    }  # fmt: skip
    device = Device(safe_from(0, 1), errors)
    found = device.descend()
    assert (found.rungs, found.parity.verdict) == (("fp16", "fp16-norms"), "passed")
    assert [rung for role, rung in device.built if role == "encoder"] == ["fp16"]
    assert [str(attempt).partition(", mask")[0] for attempt in found.attempts] == [
        "fp16: failed",
        "fp16, decoder fp32: the decoder could not be built (zeros)",
        "fp16, decoder fp16-attention: the decoder could not be built (no fp32 gemm)",
        "fp16, decoder fp16-norms: passed",
    ]
    errors |= {("encoder", "fp32"): EngineError("zeros"), ("encoder", "fp16-attention"): EngineError("no fp32 gemm")}
    device = Device(safe_from(2, 2), errors)
    assert device.descend().parity.verdict == "failed"
    assert device.judged[-1] == ("fp16-norms", "fp16-norms")


def test_a_pair_that_cannot_be_run_is_passed_over() -> None:
    device = Device(safe_from(0, 0), {("fp16", "fp16"): EngineError("illegal memory access")})
    found = device.descend()
    assert found.rungs == ("fp16", "fp16-norms")
    assert found.attempts[0] == Attempt("fp16", "fp16", False, "it could not be run (illegal memory access)")


@pytest.mark.parametrize(
    "error",
    [
        EngineError("the system killed the build", memory=True),  # lower rungs need more of it
        EngineError("the build was cancelled", cancelled=True),
        BackendUnavailableError("gone"),
    ],
)
def test_what_no_other_rung_can_mend_ends_it(error: EngineError) -> None:
    device = Device(safe_from(0, 0), {("encoder", "fp16"): error})
    with pytest.raises(type(error), match=error.what):
        device.descend()
    assert device.built == [("encoder", "fp16")]


def test_a_rung_that_is_refused_is_passed_over_unless_it_is_the_first() -> None:
    refused = UsageError("known to compute zeros in fp32")
    device = Device(safe_from(4, 4), {("encoder", "fp32"): refused})  # type: ignore[dict-item]
    found = device.descend()
    assert (found.parity.verdict, found.rungs) == ("failed", ("fp16-attention", "fp32"))
    assert str(found.attempts[-1]) == "fp32: known to compute zeros in fp32"
    with pytest.raises(UsageError, match="known to compute zeros"):
        device.descend(rungs=("fp32",))


def test_a_full_disk_ends_it() -> None:
    def build(role: GraphRole, rung: str) -> str:
        raise StorageError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        Ladder(RUNGS, build, Device(safe_from(0, 0)).judge).descend()


def test_where_nothing_can_be_built_the_last_cause_is_said() -> None:
    errors = {("encoder", rung): EngineError(f"cannot build {rung}") for rung in RUNGS}
    with pytest.raises(EngineError, match="cannot build fp32"):
        Device(safe_from(0, 0), errors).descend()


def test_one_engine_goes_down_alone() -> None:
    judged: list[str] = []

    def judge(engine: str) -> ParityRecord:
        judged.append(engine)
        return ParityRecord(verdict="passed" if engine == "fp32" else "failed")

    def build(role: GraphRole, rung: str) -> str:
        if rung == "fp16-norms":
            raise EngineError("no kernel")
        return rung if role == "yolo" else "another"

    ladder = Ladder(RUNGS, build, judge, ("yolo",))
    found = ladder.descend(("fp16", "fp32"))  # of a pair, which says nothing of one
    assert (found.engines, found.rungs, found.parity.verdict) == (("fp32",), ("fp32",), "passed")
    assert judged == ["fp16", "fp16-attention", "fp32"]
    assert [str(attempt).partition(",")[0] for attempt in found.attempts] == [
        "fp16: failed", "fp16-norms: no kernel", "fp16-attention: failed", "fp32: passed",
    ]  # fmt: skip
    judged.clear()
    assert Ladder(RUNGS, build, judge, ("yolo",)).descend(found.rungs).rungs == ("fp32",)
    assert judged == ["fp32"]


def test_boxes_are_described_in_pixels() -> None:
    parity = ParityRecord(
        verdict="failed", box_error_max=3.25, score_error_max=0.5, mask_iou_mean=0.25, thresholds={"box_error_max": 1.0}
    )
    assert describe(parity) == "failed, boxes off by up to 3.2 px, scores by 0.5, mask IoU 0.2500 on average"
