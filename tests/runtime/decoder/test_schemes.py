"""Graphs are held to the names of their I/O scheme and to the manifest."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from samedge.api.load import check_graph
from samedge.bundle.manifest import GraphRecord, Manifest, TensorRecord
from samedge.engines.protocol import Engine
from samedge.errors import BundleError, IntegrityError
from samedge.runtime.decoder.decoders import WholeDecoder
from samedge.runtime.decoder.schemes import SamGraphs
from samedge.runtime.predictor import Predictor
from samedge.testing.engine import fake_engine
from samedge.testing.predictor import fake_predictor
from samedge.types import IOScheme, TensorSpec

F32 = np.dtype(np.float32)


def changed(
    engine: Engine, inputs: Mapping[str, TensorSpec | None], outputs: Mapping[str, TensorSpec | None]
) -> Engine:
    """The same graph with some inputs and outputs added, replaced, or taken away where None."""
    merged_inputs = {name: spec for name, spec in {**engine.inputs, **inputs}.items() if spec is not None}
    merged_outputs = {name: spec for name, spec in {**engine.outputs, **outputs}.items() if spec is not None}
    return fake_engine(merged_inputs, merged_outputs, lambda feeds: feeds, name=engine.name)


@pytest.fixture
def parts() -> tuple[Manifest, Engine, Engine]:
    predictor = fake_predictor()
    decoder = predictor._graphs.decoder
    assert isinstance(decoder, WholeDecoder)
    return predictor.info, predictor._graphs.encoder, decoder.engine


@pytest.mark.parametrize(
    ("io", "message"),
    [
        ("meta", r"decoder: the graph does not follow the I/O scheme 'meta': 'orig_im_size' is missing"),
        ("samexporter", r"decoder: .* 'samexporter': 'orig_im_size' is missing"),
    ],
)
def test_graphs_of_another_scheme_are_refused(
    parts: tuple[Manifest, Engine, Engine], io: IOScheme, message: str
) -> None:
    manifest, encoder, decoder = parts
    with pytest.raises(BundleError, match=message):
        SamGraphs(msgspec.structs.replace(manifest, io=io), encoder, WholeDecoder(decoder, io, 64))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"orig_im_size": TensorSpec((2,), F32)}, {}, r"'orig_im_size' is unexpected"),
        ({"mask_input": None}, {}, r"'mask_input' is missing"),
        ({}, {"low_res_masks": None}, r"'low_res_masks' is missing"),
        ({}, {"iou_predictions": None}, r"'iou_predictions' is missing"),
        ({}, {"low_res_masks": TensorSpec(("n", 1, 16, 16), F32)}, r"it returns 1 masks and 4 scores"),
    ],
)
def test_decoders_with_other_names_are_refused(
    parts: tuple[Manifest, Engine, Engine],
    inputs: dict[str, TensorSpec | None],
    outputs: dict[str, TensorSpec | None],
    message: str,
) -> None:
    manifest, encoder, decoder = parts
    with pytest.raises(BundleError, match=message):
        Predictor(manifest, encoder, changed(decoder, inputs, outputs))


def test_an_encoder_with_another_output_is_refused(parts: tuple[Manifest, Engine, Engine]) -> None:
    manifest, encoder, decoder = parts
    other = changed(encoder, {}, {"image_embeddings": None, "features": TensorSpec((1, 3, 4, 4), F32)})
    with pytest.raises(BundleError, match=r"encoder: .*'features' is unexpected"):
        Predictor(manifest, other, decoder)


def test_encoders_of_another_scheme_are_refused(parts: tuple[Manifest, Engine, Engine]) -> None:
    manifest, encoder, decoder = parts
    with pytest.raises(BundleError, match=r"encoder: .* 'samexporter': 'image' is unexpected"):
        SamGraphs(msgspec.structs.replace(manifest, io="samexporter"), encoder, WholeDecoder(decoder, "native", 64))


def test_more_outputs_of_the_decoder_do_not_matter(parts: tuple[Manifest, Engine, Engine]) -> None:
    manifest, encoder, decoder = parts
    Predictor(manifest, encoder, changed(decoder, {}, {"masks": TensorSpec(("n", 4, "h", "w"), F32)}))


class TestManifest:
    def record(self, manifest: Manifest) -> GraphRecord:
        return manifest.graph("decoder")

    def test_a_graph_that_is_what_the_manifest_says(self, parts: tuple[Manifest, Engine, Engine]) -> None:
        manifest, encoder, decoder = parts
        check_graph(manifest.graph("encoder"), encoder)
        check_graph(manifest.graph("decoder"), decoder)

    @pytest.mark.parametrize(
        ("name", "said", "message"),
        [
            ("mask_input", None, r"the graph has the input 'mask_input' but the manifest lacks it"),
            ("extra", TensorRecord("float32", (1,)), r"the manifest has the input 'extra' but the graph lacks it"),
            (
                "point_labels",
                TensorRecord("float32", ("b", "p")),
                r"'point_labels' is int32\[prompts, points\] in the graph",
            ),
            ("mask_input", TensorRecord("float32", ("b", 1, 256, 256)), r"float32\[b, 1, 256, 256\] in the manifest"),
            ("mask_input", TensorRecord("float32", ("b", 16, 16)), r"'mask_input'"),
        ],
    )
    def test_a_graph_that_is_not(
        self, parts: tuple[Manifest, Engine, Engine], name: str, said: TensorRecord | None, message: str
    ) -> None:
        manifest, _, decoder = parts
        record = self.record(manifest)
        inputs = {key: value for key, value in {**record.inputs, name: said}.items() if value is not None}
        with pytest.raises(IntegrityError, match=rf"decoder: .*{message}"):
            check_graph(msgspec.structs.replace(record, inputs=inputs), decoder)

    def test_outputs_are_compared_too(self, parts: tuple[Manifest, Engine, Engine]) -> None:
        manifest, _, decoder = parts
        record = self.record(manifest)
        outputs = {**record.outputs, "iou_predictions": TensorRecord("float32", ("b", 3))}
        with pytest.raises(IntegrityError, match=r"the output 'iou_predictions' is float32\[prompts, 4\] in the graph"):
            check_graph(msgspec.structs.replace(record, outputs=outputs), decoder)

    def test_a_size_that_one_of_them_leaves_free_is_no_contradiction(
        self, parts: tuple[Manifest, Engine, Engine]
    ) -> None:
        manifest, _, decoder = parts
        record = self.record(manifest)
        inputs = {**record.inputs, "mask_input": TensorRecord("float32", (1, "one", "h", "w"))}
        check_graph(msgspec.structs.replace(record, inputs=inputs), decoder)
