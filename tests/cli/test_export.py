"""``samedge export``: what is on stdout, what is on stderr, and the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.program import Program

import samedge
from samedge.bundle.archive import bundle_manifest
from samedge.bundle.manifest import ParityRecord
from samedge.export import sam_bundle
from samedge.parity.compare import compare

TINY = "seeded:sam_vit_tiny"


def test_the_path_is_all_on_stdout_and_the_proof_is_on_stderr(program: Program, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    done = program("export", TINY, "--output", target)
    assert (done.status, done.out) == (0, f"{target}\n")
    assert "parity: passed (onnxruntime cpu)" in done.err
    assert "Comparing with the checkpoint: image 5 of 5" in done.err
    for prompt in ("point", "points", "box", "box+point", "mask+point", "all"):
        assert f"│ {prompt} " in done.err
    assert bundle_manifest(target).parity.verdict == "passed"
    assert samedge.load(target).info.io == "native"


def test_the_name_comes_from_the_checkpoint(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = program("export", TINY, "--no-check", "--io", "samexporter", "--opset", "18")
    assert done.out == "seeded-sam_vit_tiny-samedge-samexporter\n"
    manifest = bundle_manifest(done.out.strip())
    assert (manifest.io, manifest.parity.verdict) == ("samexporter", "unchecked")
    assert {graph.opset for graph in manifest.graphs} == {18}
    assert "parity" not in done.err


def test_one_file(program: Program, tmp_path: Path, cache: Path) -> None:
    target = tmp_path / "tiny.samedge"
    done = program("export", TINY, "--no-check", "-o", target)
    assert (done.status, done.out) == (0, f"{target}\n")
    assert target.is_file()
    assert list(cache.iterdir()) == []


def test_a_failed_parity_is_a_failed_command(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object, **named: object) -> ParityRecord:
        record: ParityRecord = compare(*arguments, **named)  # type: ignore[arg-type]
        return ParityRecord(verdict="failed", mask_iou_min=0.4, backend=record.backend, rows=record.rows)

    monkeypatch.setattr(sam_bundle, "compare", failing)
    target = tmp_path / "bundle"
    done = program("export", TINY, "-o", target)
    assert (done.status, done.out) == (1, f"{target}\n")
    assert "parity: failed" in done.err
    assert done.err.splitlines()[-1] == (
        f"error: {target}: the graphs do not reproduce the checkpoint's masks. "
        "Export in another precision; this bundle loads only with --force"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such.pt"], "no_such.pt: there is no such file"),
        ([TINY, "--format", "tflite"], "--format: unknown format 'tflite'. Choose one of: onnx"),
        ([TINY, "--precision", "fp4"], "--precision: unknown precision 'fp4'. Choose one of: fp32"),
        ([TINY, "--io", "coreml"], "--io: unknown io 'coreml'. Choose one of: native, meta, samexporter"),
        ([TINY, "--opset", "9"], "--opset: opset 9 is not supported. Choose 17 to 20"),
        (["text.pt"], "text.pt: "),
        ([TINY, "-o", "text.pt/bundle"], "text.pt"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pt").write_text("text")
    done = program("export", *arguments)
    assert (done.status, done.out) == (1, "")
    error = done.err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]
