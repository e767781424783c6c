"""Engines of a bundle finished on a board: the ladder with real masks, what is remembered, what is only said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.boards import ORIN, RTX3060, Board, overflown, shifted
from support.bundles import pack, write_any_bundle, write_small_bundle
from support.exported import exported_bundle

import samedge
from samedge.bundle.archive import engines_folder, open_bundle
from samedge.bundle.engine_notes import engine_notes
from samedge.bundle.engines import bundle_pairs
from samedge.engines.tensorrt.store.sidecar import read_sidecar, sidecar_path
from samedge.engines.tensorrt.store.store import EngineStore
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError, ParityError, UsageError
from samedge.export.engines.build import build_engines
from samedge.options import AxisRange


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_bundle(tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """The same bundle at a place of its own, so that engines beside it are those of one test."""
    link = tmp_path / "tiny-samedge"
    link.mkdir()
    for path in exported.iterdir():
        (link / path.name).hardlink_to(path)
    return link


def test_engines_that_give_the_masks_lie_beside_the_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    steps: list[tuple[str, float]] = []
    built = build_engines(board.serve(bundle), progress=lambda step, share: steps.append((step, share)))
    assert (built.verdict, built.rungs, built.precision) == ("passed", ("fp16", "fp16"), "fp16")
    assert built.folder == engines_folder(bundle) == bundle.with_name("tiny-samedge-engines")
    assert sorted(path.name for path in built.folder.iterdir()) == [
        "decoder.tensorrt.orin-nvgpu-sm87.engine", "decoder.tensorrt.orin-nvgpu-sm87.engine.json",
        "encoder.tensorrt.orin-nvgpu-sm87.engine", "encoder.tensorrt.orin-nvgpu-sm87.engine.json",
    ]  # fmt: skip
    assert board.builds == [("encoder", "fp16"), ("decoder", "fp16")]
    assert [options.precision for options in board.options] == ["fp16", "fp16"]
    assert ("Building the encoder (fp16)", 0.35) in steps
    assert steps[-1] == ("Done", 1.0)
    assert built.notes == ()
    sidecar = read_sidecar(built.encoder)
    assert sidecar is not None
    notes = engine_notes(sidecar)
    assert notes is not None
    assert (notes.role, notes.rung, notes.verdict, len(notes.parity.rows)) == ("encoder", "fp16", "passed", 25)
    assert notes.partner_sha256 == read_sidecar(built.decoder).sha256  # type: ignore[union-attr]
    # What is beside the bundle shares its bytes with the store.
    assert built.encoder.stat().st_nlink == 2

    again = build_engines(bundle)
    assert (again.rungs, again.verdict, len(board.builds), len(board.opened)) == (built.rungs, "passed", 2, 2)


def test_wrong_masks_walk_down_the_ladder_and_the_rung_is_remembered(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    board = Board(monkeypatch)
    board.wrong = {("encoder", "fp16"): overflown, ("decoder", "fp16"): shifted, ("decoder", "fp16-norms"): overflown}
    built = build_engines(board.serve(bundle))
    assert (built.verdict, built.rungs) == ("passed", ("fp16-norms", "fp16-attention"))
    tried = [(attempt.encoder, attempt.decoder, attempt.passed) for attempt in built.attempts]
    assert tried == [
        ("fp16", "fp16", False),
        ("fp16", "fp32", False),
        ("fp16-norms", "fp16", False),
        ("fp16-norms", "fp32", True),
        ("fp16-norms", "fp16-norms", False),
        ("fp16-norms", "fp16-attention", True),
    ]
    assert "failed, mask IoU 0." in str(built.attempts[0])
    assert [role for role, _ in board.builds].count("encoder") == 2

    # Another profile is another build, which starts on the rung that served.
    board.builds.clear()
    wider = build_engines(bundle, prompts="1/32/128")
    assert (wider.rungs, len(wider.attempts)) == (built.rungs, 1)
    assert board.builds == [("decoder", "fp16-attention")], "the encoder has no prompts: it is the same engine"
    assert board.options[-1].profiles["prompts"] == AxisRange(1, 32, 128)

    # A call that asks for it, and another GPU, start at the top.
    board.wrong.clear()
    assert build_engines(bundle).rungs == built.rungs
    assert build_engines(bundle, restart=True).rungs == ("fp16", "fp16")
    board.gpu = RTX3060
    assert build_engines(bundle).rungs == ("fp16", "fp16")


def test_where_no_rung_gives_the_masks_the_engines_are_kept_and_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch)
    board.wrong = {("encoder", "fp32"): overflown}
    built = build_engines(board.serve(bundle), precision="fp32")
    assert (built.verdict, built.rungs) == ("failed", ("fp32", "fp32"))
    assert [options.precision for options in board.options] == ["fp32", "fp32"]
    with pytest.raises(ParityError, match=r"do not reproduce the checkpoint's masks .*samedge build .*force"):
        samedge.load(bundle, backend="tensorrt")
    with samedge.load(bundle, backend="tensorrt", force=True) as predictor:
        assert predictor.device == "cuda:0"
    assert samedge.load(bundle, backend="onnxruntime").backend == "onnxruntime"


def test_a_build_that_dies_is_stepped_over_and_one_without_memory_is_not(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch)
    board.fails = {("encoder", "fp16"): EngineError("the building process was ended by SIGSEGV", code=-11)}
    built = build_engines(board.serve(bundle))
    assert built.rungs == ("fp16-norms", "fp16")
    assert str(built.attempts[0]) == "fp16: the building process was ended by SIGSEGV"
    assert built.verdict == "passed"

    board.fails = {("encoder", "fp16"): EngineError("the system killed the build", cure="Add swap", memory=True)}
    board.builds.clear()
    with pytest.raises(EngineError, match="the system killed the build"):
        build_engines(bundle, restart=True)
    assert board.builds == [("encoder", "fp16")]


@pytest.mark.parametrize("why", ["no GPU", "asked for", "no answers"])
def test_what_cannot_be_checked_is_said_to_be_unchecked(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    board = Board(monkeypatch, "rtx", RTX3060)
    sentence = {
        "no GPU": "cannot be run without a GPU: they will be checked on the device",
        "asked for": "were not checked, as requested",
        "no answers": "the bundle has no stored output",
    }[why]
    if why == "no GPU":
        board.gpu = None
    if why == "no answers":
        bundle = write_small_bundle(tmp_path / "unchecked")
    built = build_engines(board.serve(bundle), targets=("8.6",), check=why != "asked for")
    assert (built.verdict, built.rungs, built.attempts, board.opened) == ("unchecked", ("fp16", "fp16"), (), [])
    assert any(sentence in note for note in built.notes)
    assert built.encoder.name == "encoder.tensorrt-rtx.sm86.engine"
    assert (any("form 'chunked'" in note for note in built.notes)) == (why == "no answers")


def test_a_target_that_is_not_the_gpu_here_is_not_checked_here(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch, "rtx", RTX3060)
    built = build_engines(board.serve(bundle), flavour="rtx", targets=("8.9",))
    assert (built.verdict, board.opened) == ("unchecked", [])
    assert "cannot be run on NVIDIA GeForce RTX 3060" in built.notes[0]
    assert build_engines(bundle, targets=("8.6", "8.9")).verdict == "passed"


def test_engines_from_elsewhere_are_checked_when_they_are_first_loaded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch, "rtx", None)
    built = build_engines(board.serve(bundle), targets=("8.6",))
    board.gpu = RTX3060
    with samedge.load(bundle) as predictor:  # "auto" takes them
        assert predictor.device == "cuda:0"
        assert predictor.prompts_per_call <= 64
    pair = bundle_pairs(open_bundle(bundle))[0]
    assert (pair.verdict, pair.encoder.plan) == ("passed", built.encoder)
    monkeypatch.setattr("samedge.parity.sam_verify.verify_engines", None)  # not asked again
    assert samedge.load(bundle, backend="rtx").device == "cuda:0"


def test_engines_that_do_not_take_the_probes_stay_unchecked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    build_engines(board.serve(bundle), points="2/2/2", check=False)
    with samedge.load(bundle, backend="tensorrt") as predictor:
        assert predictor.device == "cuda:0"
    assert bundle_pairs(open_bundle(bundle))[0].verdict == "unchecked"


def test_engines_from_elsewhere_that_fail_are_left_alone_by_auto(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEDGE_AUTO", "first")
    board = Board(monkeypatch, "rtx", None)
    build_engines(board.serve(bundle), targets=("8.6",))
    board.gpu = RTX3060
    board.wrong = {("encoder", "fp16"): overflown}
    with samedge.load(bundle) as predictor:
        assert (predictor.backend, predictor.device) == ("onnxruntime", "cpu")
    assert bundle_pairs(open_bundle(bundle))[0].verdict == "failed"
    with pytest.raises(ParityError, match="do not reproduce the checkpoint's masks"):
        samedge.load(bundle, backend="tensorrt-rtx")


def test_an_engine_whose_key_does_not_fit_is_never_opened(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEDGE_AUTO", "first")
    board = Board(monkeypatch)
    build_engines(board.serve(bundle))
    board.opened.clear()
    module: Any = board.tensorrt.module
    monkeypatch.setattr(module, "__version__", "10.7.0.23")
    with pytest.raises(
        EngineError,
        match=r"cannot be opened safely here: it was built by version 10.3.0.26, but this is 10.7.0.23.*samedge build",
    ):
        samedge.load(bundle, backend="tensorrt")
    assert samedge.load(bundle).backend == "onnxruntime"
    assert board.opened == []


def test_engines_are_found_in_the_store_as_well(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    built = build_engines(board.serve(bundle), output=tmp_path / "elsewhere")
    assert built.folder == tmp_path / "elsewhere"
    assert not engines_folder(bundle).exists()
    with samedge.load(bundle, backend="trt") as predictor:
        assert predictor.device == "cuda:0"
    for entry in EngineStore().entries():
        entry.plan.unlink()
        sidecar_path(entry.plan).unlink()
    with pytest.raises(EngineError, match=r"there is no engine of this bundle for TensorRT 10.*samedge build"):
        samedge.load(bundle, backend="trt")


def test_a_bundle_in_one_file_has_its_engines_beside_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch)
    archive = board.serve(pack(bundle, tmp_path / "one.samedge"))
    built = build_engines(archive)
    assert (built.verdict, built.folder) == ("passed", tmp_path / "one-engines")
    assert samedge.load(archive, backend="tensorrt").device == "cuda:0"


@pytest.mark.parametrize("generation", ["8.6", "10.13", "11"])
def test_every_generation_builds(bundle: Path, monkeypatch: pytest.MonkeyPatch, generation: str) -> None:
    board = Board(monkeypatch, generation)
    built = build_engines(board.serve(bundle), check=False, version_compatible=True)
    assert board.tensorrt.version in built.target
    assert all(options.version_compatible for options in board.options)


def test_a_device_that_is_no_gpu_is_not_answered_with_engines(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEDGE_AUTO", "first")
    board = Board(monkeypatch)
    build_engines(board.serve(bundle))
    assert samedge.load(bundle, device="cpu").device == "cpu"
    assert samedge.load(bundle, device="cuda:0").device == "cuda:0"


def test_another_export_of_the_model_does_not_take_these_engines(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch)
    build_engines(board.serve(bundle), check=False)
    assert len(bundle_pairs(open_bundle(bundle))) == 2  # beside it and in the store
    assert bundle_pairs(open_bundle(write_any_bundle(tmp_path / "other"))) == []


def test_a_plan_that_was_changed_beside_the_bundle_costs_a_clear_word(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch)
    built = build_engines(board.serve(bundle))
    sidecar_path(built.decoder).write_text("{")
    for entry in EngineStore().entries():
        entry.plan.unlink()
    with pytest.raises(EngineError, match="there is no engine of this bundle"):
        samedge.load(bundle, backend="tensorrt")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"flavour": "tflite"}, UsageError, "unknown flavour 'tflite'. Choose one of: auto, trt, rtx"),
        ({"flavour": "rtx"}, BackendUnavailableError, "tensorrt_rtx is not installed"),
        ({"precision": "int8"}, UsageError, "encoder is fp32, not int8. Export again with --precision"),
        ({"prompts": "many"}, UsageError, "--prompts: invalid range 'many'"),
        ({"prompts": "4/2/1"}, UsageError, "invalid profile 4/2/1"),
        ({"points": "2/2/3"}, UsageError, "do not accept the probes"),
        ({"targets": ("8.6",)}, UsageError, "builds for the local GPU only"),
        ({"workspace": 0.0}, UsageError, "invalid workspace_share 0.0"),
        ({"optimisation_level": 9}, UsageError, "invalid optimisation_level 9"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, object],
    error: type[samedge.SamedgeError],
    message: str,
) -> None:
    board = Board(monkeypatch)
    with pytest.raises(error) as caught:
        build_engines(board.serve(bundle), **arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert board.builds == []
    assert not engines_folder(bundle).exists()


def test_other_schemes_and_bundles_that_failed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Board(monkeypatch)
    with pytest.raises(UsageError, match=r"engines are built from native bundles, .* --io native"):
        build_engines(write_small_bundle(tmp_path / "meta", "meta"))
    with pytest.raises(ParityError):
        build_engines(write_small_bundle(tmp_path / "failed", verdict="failed"))


def test_tensorrt_without_a_gpu_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Board(monkeypatch, gpu=None)
    with pytest.raises(DeviceUnavailableError, match=r"TensorRT 10.* builds on the GPU .*format 'rtx'"):
        build_engines(tmp_path / "none", flavour="trt")


def test_auto_takes_what_is_installed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch, "rtx", RTX3060)
    assert "TensorRT-RTX" in build_engines(board.serve(bundle)).target
    monkeypatch.setattr("samedge.export.engines.target.find_flavour", _missing)
    with pytest.raises(BackendUnavailableError, match=r"TensorRT is not installed.*samedge\[trt\].*samedge\[rtx\]"):
        build_engines(bundle)


def _missing(name: str) -> object:
    raise BackendUnavailableError(f"{name} is not installed")


def test_a_gpu_that_rtx_does_not_know_is_refused_with_the_way_out(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch, "rtx", ORIN)
    with pytest.raises(UsageError, match=r"does not run on .*Orin.*format 'trt'"):
        build_engines(board.serve(bundle))
