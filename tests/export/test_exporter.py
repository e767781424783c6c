"""Real exports of small models of the true architecture: files, verdicts, schemes, and what stops them."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.reference import reference_sam
from support.shared import environment
from torch.nn import functional as F

import samedge
from samedge.bundle.manifest import MANIFEST_NAME, Manifest, read_manifest
from samedge.errors import CheckpointError, ExportError, UsageError
from samedge.export import sam_bundle
from samedge.export.exporter import export_model
from samedge.export.graphs.plans import GraphPlan, MetaDecoder
from samedge.export.graphs.trace import trace
from samedge.export.tools import CONFIG_NAME
from samedge.models.sam.load import load_model
from samedge.models.sam.seeded import seeded_config
from samedge.types import IOScheme

SCHEMES: tuple[IOScheme, ...] = ("native", "meta", "samexporter", "osam")
TINY = "seeded:sam_vit_tiny"


VERIFY = textwrap.dedent(
    """
    import json, sys
    import msgspec
    from samedge.parity.verify import verify_bundle
    record = verify_bundle(sys.argv[1], backend="onnxruntime", device="cpu")
    heavy = [name for name in ("torch", "onnx") if name in sys.modules]
    print(json.dumps({"heavy": heavy, "record": msgspec.to_builtins(record)}))
    """
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[IOScheme, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {io: export_model(TINY, io=io, output=folder / io) for io in SCHEMES}


def manifest_of(bundle: Path) -> Manifest:
    return read_manifest(bundle / MANIFEST_NAME)


@pytest.mark.parametrize("io", SCHEMES)
def test_a_bundle_is_complete_and_proved(bundles: dict[IOScheme, Path], io: IOScheme) -> None:
    bundle, manifest = bundles[io], manifest_of(bundles[io])
    beside = [CONFIG_NAME] if io == "samexporter" else []
    assert sorted(path.name for path in bundle.iterdir()) == sorted(
        [MANIFEST_NAME, *(file.file for file in manifest.files), *beside]
    )
    for file in manifest.files:
        data = (bundle / file.file).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.size)
    assert manifest.io == io
    assert manifest.model.seeded
    assert manifest.parity.verdict == "passed"
    assert manifest.parity.mask_iou_min >= 0.999
    assert manifest.parity.embedding_error_max < 1e-4
    assert len(manifest.parity.rows) == 25
    assert manifest.versions["torch"].startswith(torch.__version__.split("+")[0])
    roles = [graph.role for graph in manifest.graphs]
    split = ["decoder_context", "decoder_prompts", "decoder_masks"]
    assert roles == ["encoder", "decoder", *(split if io == "native" else ["decoder_single"])]


@pytest.mark.parametrize("io", SCHEMES)
def test_the_verdict_without_torch_is_that_of_the_export(bundles: dict[IOScheme, Path], io: IOScheme) -> None:
    done = subprocess.run([sys.executable, "-c", VERIFY, bundles[io]], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    exported = msgspec.to_builtins(manifest_of(bundles[io]).parity)
    assert said["heavy"] == []
    same = ("verdict", "backend", "thresholds", "mask_iou_mean", "mask_iou_decile", "mask_iou_min", "iou_error_max")
    for name in same:
        assert said["record"][name] == pytest.approx(exported[name], abs=1e-6)
    assert len(said["record"]["rows"]) == len(exported["rows"]) == 25
    # Looked at on a coarse grid: no more than the export saw, and not nothing.
    for name in ("embedding_error_max", "low_res_error_max"):
        assert 0 < said["record"][name] <= exported[name] * 1.5


@pytest.mark.parametrize("io", SCHEMES)
def test_the_manifest_tells_what_the_graphs_take_and_give(bundles: dict[IOScheme, Path], io: IOScheme) -> None:
    for graph in manifest_of(bundles[io]).graphs:
        model = onnx.load(bundles[io] / graph.graph.file)
        assert model.opset_import[0].version == graph.opset == 17
        assert len(model.graph.node) == graph.nodes
        session = onnxruntime.InferenceSession(bundles[io] / graph.graph.file)
        assert [value.name for value in session.get_inputs()] == list(graph.inputs)
        assert [value.name for value in session.get_outputs()] == list(graph.outputs)


def test_native_graphs_have_the_contract_s_names_shapes_and_dtypes(bundles: dict[IOScheme, Path]) -> None:
    manifest = manifest_of(bundles["native"])
    size, grid = manifest.input.image_size, manifest.input.image_size // 16

    def show(records: object) -> dict[str, tuple[str, list[int | str]]]:
        return {name: (record.dtype, list(record.shape)) for name, record in records.items()}  # type: ignore[attr-defined]

    encoder, decoder = manifest.graph("encoder"), manifest.graph("decoder")
    assert show(encoder.inputs) == {"image": ("float32", ["batch", 3, size, size])}
    assert show(encoder.outputs) == {"image_embeddings": ("float32", ["batch", 256, grid, grid])}
    assert show(decoder.inputs) == {
        "image_embeddings": ("float32", [1, 256, grid, grid]),
        "point_coords": ("float32", ["prompts", "points", 2]),
        "point_labels": ("int32", ["prompts", "points"]),
        "mask_input": ("float32", ["prompts", 1, 4 * grid, 4 * grid]),
        "has_mask_input": ("float32", ["prompts"]),
    }
    assert show(decoder.outputs) == {
        "low_res_masks": ("float32", ["prompts", 4, 4 * grid, 4 * grid]),
        "iou_predictions": ("float32", ["prompts", 4]),
    }


@pytest.mark.parametrize(("role", "count"), [("decoder", 4), ("decoder_single", 1)])
def test_meta_graph_has_meta_s_names_and_is_right_at_every_aspect_ratio(
    bundles: dict[IOScheme, Path], role: str, count: int
) -> None:
    record = next(graph for graph in manifest_of(bundles["meta"]).graphs if graph.role == role)
    assert list(record.inputs) == [
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
    ]  # fmt: skip
    assert {tensor.dtype for tensor in record.inputs.values()} == {"float32"}
    assert record.inputs["point_coords"].shape == (1, "num_points", 2)
    assert record.inputs["orig_im_size"].shape == (2,)
    assert list(record.outputs) == ["masks", "iou_predictions", "low_res_masks"]
    assert record.outputs["masks"].shape == (1, count, "height", "width")

    sam = load_model(TINY).model
    reference = reference_sam(sam.state_dict(), seeded_config("sam_vit_tiny"))
    size, grid = sam.image_size, sam.embedding_size
    session = onnxruntime.InferenceSession(bundles["meta"] / record.graph.file)
    random = np.random.default_rng(0)
    embedding = random.normal(size=(1, 256, grid, grid)).astype(np.float32)
    for height, width in ((37, 148), (148, 37), (64, 64), (97, 61), (3 * size, 2 * size + 1)):
        for points in (1, 3):
            scale = size / max(height, width)
            coords = random.uniform(0, 1, (1, points + 1, 2)).astype(np.float32) * [width * scale, height * scale]
            labels = np.array([[*random.integers(0, 2, points), -1]], np.float32)
            feeds = {
                "image_embeddings": embedding,
                "point_coords": coords.astype(np.float32),
                "point_labels": labels,
                "mask_input": np.zeros((1, 1, 4 * grid, 4 * grid), np.float32),
                "has_mask_input": np.array([-1], np.float32),  # as osam says "no mask"
                "orig_im_size": np.array([height, width], np.float32),
            }
            masks, ious, low_res = session.run(None, feeds)
            with torch.no_grad():
                sparse, dense = reference.prompt_encoder(
                    points=(torch.from_numpy(feeds["point_coords"][:, :-1]), torch.from_numpy(labels[:, :-1])),
                    boxes=None,
                    masks=None,
                )
                want_low, want_iou = reference.mask_decoder.predict_masks(
                    image_embeddings=torch.from_numpy(embedding),
                    image_pe=reference.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                )
                resized = (int(height * scale + 0.5), int(width * scale + 0.5))
                want = reference.postprocess_masks(want_low, resized, (height, width))
            if count == 1:
                best = 0 if points + 1 > 2.5 else 1 + int(want_iou[0, 1:].argmax())
                want, want_iou, want_low = want[:, [best]], want_iou[:, [best]], want_low[:, [best]]
            assert masks.shape == (1, count, height, width)
            np.testing.assert_allclose(masks, want.numpy(), atol=1e-4)
            np.testing.assert_allclose(ious, want_iou.numpy(), atol=1e-4)
            np.testing.assert_allclose(low_res, want_low.numpy(), atol=1e-4)


def test_samexporter_encoder_normalises_and_pads_images_of_any_ratio(bundles: dict[IOScheme, Path]) -> None:
    record = manifest_of(bundles["samexporter"]).graph("encoder")
    assert list(record.inputs) == ["input_image"]
    assert record.inputs["input_image"].shape == ("height", "width", 3)
    sam = load_model(TINY).model
    session = onnxruntime.InferenceSession(bundles["samexporter"] / record.graph.file)
    random = np.random.default_rng(0)
    for height, width in ((sam.image_size, 20), (20, sam.image_size), (sam.image_size, sam.image_size)):
        image = random.uniform(0, 255, (height, width, 3)).astype(np.float32)
        (have,) = session.run(None, {"input_image": image})
        normed = (torch.from_numpy(image).permute(2, 0, 1) - torch.tensor([123.675, 116.28, 103.53])[:, None, None]) / (
            torch.tensor([58.395, 57.12, 57.375])[:, None, None]
        )
        padded = F.pad(normed, (0, sam.image_size - width, 0, sam.image_size - height))
        with torch.no_grad():
            want = sam.encode(padded[None])
        np.testing.assert_allclose(have, want.numpy(), atol=1e-4)


def test_the_encoder_takes_batches(bundles: dict[IOScheme, Path]) -> None:
    sam = load_model(TINY).model
    session = onnxruntime.InferenceSession(
        bundles["native"] / manifest_of(bundles["native"]).graph("encoder").graph.file
    )
    images = np.random.default_rng(0).normal(size=(3, 3, sam.image_size, sam.image_size)).astype(np.float32)
    (have,) = session.run(None, {"image": images})
    with torch.no_grad():
        np.testing.assert_allclose(have, sam.encode(torch.from_numpy(images)).numpy(), atol=1e-4)


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_opsets(tmp_path: Path, opset: int) -> None:
    manifest = manifest_of(export_model(TINY, opset=opset, output=tmp_path / "bundle"))
    assert manifest.parity.verdict == "passed"
    for graph in manifest.graphs:
        assert onnx.load(tmp_path / "bundle" / graph.graph.file).opset_import[0].version == opset


def test_graphs_hold_no_arithmetic_that_is_constant(bundles: dict[IOScheme, Path]) -> None:
    """Deterministic proxies of a clean graph: what each kind of node is there for is known."""
    bundle = bundles["native"]
    encoder = onnx.load(bundle / manifest_of(bundle).graph("encoder").graph.file).graph
    decoder = onnx.load(bundle / manifest_of(bundle).graph("decoder").graph.file).graph
    for graph, shapes in ((encoder, 0), (decoder, 1)):  # one: the learned tokens are repeated for each prompt
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("Shape") == shapes
        assert not {"Identity", "Constant", "ConstantOfShape", "Dropout", "BatchNormalization", "Einsum"} & set(kinds)


def test_large_graphs_keep_their_weights_in_a_hashed_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samedge.export.graphs.onnx_file.EXTERNAL_DATA_BYTES", 100_000)
    bundle = export_model(TINY, output=tmp_path / "bundle")
    manifest = manifest_of(bundle)
    assert manifest.parity.verdict == "passed"
    for graph in manifest.graphs:
        (data,) = graph.external_data
        assert data.size > 10 * graph.graph.size
        assert hashlib.sha256((bundle / data.file).read_bytes()).hexdigest() == data.sha256


def test_a_wrong_graph_gets_the_verdict_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def damage(plan: GraphPlan, opset: int) -> onnx.ModelProto:
        model = trace(plan, opset)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("iou_prediction_head.layers.2.bias"):
                values = onnx.numpy_helper.to_array(tensor) + 0.1
                tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
        return model

    monkeypatch.setattr(sam_bundle, "trace", damage)
    manifest = manifest_of(export_model(TINY, output=tmp_path / "bundle"))
    assert manifest.parity.verdict == "failed"
    assert manifest.parity.iou_error_max == pytest.approx(0.1, abs=1e-3)


def test_without_the_check_the_verdict_says_so(tmp_path: Path) -> None:
    assert manifest_of(export_model(TINY, output=tmp_path / "bundle", check=False)).parity.verdict == "unchecked"


def test_progress_only_grows_and_ends(tmp_path: Path) -> None:
    steps: list[tuple[str, float]] = []
    export_model(TINY, output=tmp_path / "bundle", progress=lambda step, share: steps.append((step, share)))
    shares = [share for _, share in steps]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any("image 5 of 5" in step for step, _ in steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"io": "onnx"}, "unknown io 'onnx'"),
        ({"precision": "fp64"}, "unknown precision"),
        ({"format": "tflite"}, "unknown format"),
        ({"opset": 11}, "opset 11 is not supported"),
    ],
)
def test_unknown_options(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export_model(TINY, output=tmp_path / "bundle", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds no bundle"):
        export_model(TINY, output=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_foreign_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sam_b.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError):
        export_model(path, output=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("moment", ["Writing the encoder", "Writing the decoder", "image 1 of 5", "image 5 of 5"])
def test_an_export_killed_at_any_point_leaves_no_bundle(tmp_path: Path, moment: str) -> None:
    script = f"""
        import os, signal
        from samedge.export.exporter import export_model
        def die(step, share):
            if {moment!r} in step:
                os.kill(os.getpid(), signal.SIGKILL)
        export_model({TINY!r}, output={str(tmp_path / "bundle")!r}, progress=die)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, env=environment())
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not list(tmp_path.rglob(MANIFEST_NAME))
    export_model(TINY, output=tmp_path / "bundle", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_meta_decoder_picks_as_meta_does() -> None:
    sam = load_model(TINY).model
    grid = sam.embedding_size
    picked = {}
    for points in (2, 3):
        outputs = MetaDecoder(sam, single=True)(
            torch.zeros(1, 256, grid, grid), torch.full((1, points, 2), 20.0), torch.ones(1, points),
            torch.zeros(1, 1, 4 * grid, 4 * grid), torch.zeros(1), torch.tensor([50.0, 60.0]),
        )  # fmt: skip
        every = MetaDecoder(sam, single=False)(
            torch.zeros(1, 256, grid, grid), torch.full((1, points, 2), 20.0), torch.ones(1, points),
            torch.zeros(1, 1, 4 * grid, 4 * grid), torch.zeros(1), torch.tensor([50.0, 60.0]),
        )  # fmt: skip
        picked[points] = int((every[1][0] == outputs[1][0]).nonzero()[0])
        assert torch.equal(every[0][:, picked[points]], outputs[0][:, 0])
    assert picked[3] == 0
    assert picked[2] != 0


@pytest.mark.parametrize("io", SCHEMES)
def test_every_graph_says_what_it_is(bundles: dict[IOScheme, Path], io: IOScheme) -> None:
    manifest = manifest_of(bundles[io])
    for graph in manifest.graphs:
        model = onnx.load(bundles[io] / graph.graph.file)
        onnx.checker.check_model(model)
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(said["imgsz"]) == [manifest.input.image_size] * 2
        assert tuple(json.loads(said["mean"])) == manifest.input.pixel_mean
        assert tuple(json.loads(said["std"])) == manifest.input.pixel_std
        assert (said["dialect"], said["role"], said["model"]) == (io, graph.role, manifest.model.name)
        assert said["license"] == manifest.model.licence
        assert json.loads(said["parity"])["verdict"] == "passed"
        assert model.doc_string.startswith(
            f"{graph.role.replace('_', ' ')} of {manifest.model.name}, exported by samedge"
        )


def test_graphs_that_lost_their_manifest_still_open(bundles: dict[IOScheme, Path], tmp_path: Path) -> None:
    for io in SCHEMES:
        manifest = manifest_of(bundles[io])
        folder = shutil.copytree(bundles[io], tmp_path / io, ignore=shutil.ignore_patterns(MANIFEST_NAME))
        with samedge.load(folder, "onnxruntime") as predictor:
            assert predictor.info.input == manifest.input
            assert predictor.info.model.name == manifest.model.name
            assert predictor.info.model.licence == manifest.model.licence
            assert predictor.info.model.checkpoint_sha256 == manifest.model.checkpoint_sha256
            assert predictor.info.parity.verdict == "unchecked"
