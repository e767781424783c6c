"""What changed between two reports: noise, real changes, other machines, failed parity."""

from __future__ import annotations

from typing import Any

import pytest
from support.bench_rows import model_row, report, stage

from samedge.benchmarks.bench.comparison import (
    Comparison,
    Judgement,
    compare_reports,
    comparison_markdown,
    comparison_table,
    judge,
)
from samedge.benchmarks.bench.records import ModelRow
from samedge.benchmarks.measure.rounds import spread_of


@pytest.mark.parametrize(
    ("before", "now", "judgement"),
    [
        ([100, 101, 102], [50, 51, 52], "faster"),
        ([50, 51, 52], [100, 101, 102], "slower"),
        ([100, 110, 120], [95, 105, 118], "within noise"),
        ([100, 100, 100], [99.5, 99.5, 99.5], "within noise"),
        ([100, 100], [50, 50, 50], "too few rounds"),
        ([100, 100, 100], [50], "too few rounds"),
    ],
)
def test_the_spread_of_both_counts(before: list[float], now: list[float], judgement: str) -> None:
    assert judge(spread_of(before), spread_of(now)) == judgement


def quicker(**changes: Any) -> ModelRow:
    """The same model with a quicker encoder, in a smaller file."""
    stages = {**model_row().stages, "encode": stage(400, 401, 402)}
    return model_row(stages=stages, size_bytes=100_000_000, **changes)


def judgements(found: Comparison) -> dict[str, Judgement]:
    return {change.what: change.judgement for change in found.changes}


def test_a_figure_that_changed_is_told_and_the_others_are_noise_or_the_same() -> None:
    found = compare_reports(report(model_row(), model_row("gone")), report(quicker(), model_row("new")))
    assert judgements(found) == {
        "preprocess, ms": "within noise", "encode, ms": "faster", "prompt, ms": "within noise",
        "boxes, ms": "within noise", "everything, ms": "within noise", "size, MB": "changed", "parameters, M": "same",
        "peak RSS, MB": "same", "mask IoU, worst": "same",
    }  # fmt: skip
    assert found.different == ()
    assert found.missing == ("gone is in the older report only", "new is in the newer report only")
    text = comparison_markdown(found)
    assert "| SAM-b | encode, ms | 800 | 401 | 2.00x | faster |" in text
    assert "The conditions differ" not in text
    assert comparison_table(found).row_count == len(found.changes)


def test_other_machines_are_named_and_times_are_not_judged() -> None:
    found = compare_reports(report(model_row(), processor="a slow one"), report(quicker()))
    assert found.different == ("different machine: processor was a slow one and is a fast one",)
    assert {kind for what, kind in judgements(found).items() if what.endswith(" ms")} == {"other machine"}
    text = comparison_markdown(found)
    assert "**The conditions differ" in text
    assert "| SAM-b | encode, ms | 800 | 401 | – | other machine |" in text
    assert "x |" not in "".join(line for line in text.splitlines() if ", ms" in line)


def test_other_threads_pictures_or_backends_are_other_conditions() -> None:
    now = report(quicker())
    now.settings["threads"] = "4"
    found = compare_reports(report(model_row()), now)
    assert found.different == ("different settings: threads was 2 and is 4",)
    moved = compare_reports(report(model_row()), report(quicker(backend="openvino")))
    assert judgements(moved)["encode, ms"] == "other machine"


def test_a_model_of_which_parity_failed_is_not_faster() -> None:
    found = compare_reports(report(model_row()), report(quicker(verdict="failed")))
    assert judgements(found)["encode, ms"] == "parity failed"
    assert "| SAM-b | encode, ms | 800 | 401 | – | parity failed |" in comparison_markdown(found)


def test_a_model_of_which_parity_was_never_checked_is_marked() -> None:
    found = compare_reports(report(model_row()), report(quicker(verdict="unchecked")))
    assert "| SAM-b | encode, ms | 800 | 401 | 2.00x | faster, parity unchecked |" in comparison_markdown(found)


def test_rows_that_were_skipped_are_not_compared() -> None:
    found = compare_reports(report(model_row(skipped="no memory")), report(model_row()))
    assert found.changes == ()
    assert found.missing == ("SAM-b is in the newer report only",)
