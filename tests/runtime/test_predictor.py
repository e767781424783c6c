"""What a predictor does around the model: state, order, choice of masks, filtering, embeddings on disk."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from samedge.bundle.manifest import Manifest
from samedge.errors import EngineError, ImageError, PromptError, StorageError, UsageError
from samedge.runtime.decoder.decoders import WholeDecoder
from samedge.runtime.predictor import Predictor
from samedge.runtime.results.prediction import Prediction
from samedge.testing.engine import FakeEngine
from samedge.testing.predictor import FAKE_SCORES, fake_predictor
from samedge.types import ImageArray

IMAGE: ImageArray = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
BOXES = [[0, 0, 80, 60], [80, 60, 160, 120], [40, 30, 120, 90]]


@pytest.fixture
def predictor() -> Predictor:
    predictor = fake_predictor(image_size=64)
    predictor.set_image(IMAGE)
    return predictor


def calls(predictor: Predictor) -> list[dict[str, Any]]:
    decoder = predictor._graphs.decoder
    assert isinstance(decoder, WholeDecoder)
    raw = decoder.engine._raw
    assert isinstance(raw, FakeEngine)
    return raw.calls


class TestState:
    def test_without_an_image_it_says_what_to_do(self, tmp_path: Path) -> None:
        predictor = fake_predictor()
        for use in (
            lambda: predictor.predict(points=[1, 1]),
            lambda: predictor.image_embedding,
            lambda: predictor.geometry,
            lambda: predictor.save_embedding(tmp_path / "x.npz"),
        ):
            with pytest.raises(UsageError, match=r"no image is set\. Call set_image or load_embedding first"):
                use()
        assert predictor.speed == {}

    def test_reset_forgets_the_image(self, predictor: Predictor) -> None:
        predictor.reset_image()
        with pytest.raises(UsageError, match=r"no image is set"):
            predictor.predict(points=[1, 1])

    def test_an_image_that_fails_does_not_leave_the_one_before(self, predictor: Predictor) -> None:
        with pytest.raises(ImageError):
            predictor.set_image(np.zeros((0, 0, 3), np.uint8))
        with pytest.raises(UsageError, match=r"no image is set"):
            predictor.predict(points=[1, 1])

    def test_a_prompt_that_fails_leaves_the_image(self, predictor: Predictor) -> None:
        with pytest.raises(PromptError):
            predictor.predict(points=[-1, 1])
        with pytest.raises(PromptError, match=r"no prompt given"):
            predictor.predict()
        assert len(predictor.predict(points=[1, 1])) == 1

    def test_an_image_of_another_thread_is_refused(self, predictor: Predictor) -> None:
        with ThreadPoolExecutor(1) as pool:
            for use in (
                lambda: predictor.predict(points=[1, 1]),
                predictor.everything,
                lambda: predictor.image_embedding,
            ):
                with pytest.raises(UsageError, match=r"set by another thread\. .*predictor\.twin\(\)"):
                    pool.submit(use).result()
            pool.submit(predictor.set_image, IMAGE).result()
            with pytest.raises(UsageError, match=r"set by another thread"):
                predictor.predict(points=[1, 1])
            predictor.one_thread = False
            assert len(predictor.predict(points=[1, 1])) == 1

    def test_twins_in_many_threads_keep_their_images(self, predictor: Predictor) -> None:
        def answers(seed: int) -> bool:
            own, random = predictor.twin(), np.random.default_rng(seed)
            for _ in range(20):
                height, width = random.integers(20, 200, 2).tolist()
                own.set_image(np.full((height, width, 3), seed, np.uint8))
                found = own.predict(boxes=[0, 0, width / 2, height / 2])
                if found.masks.shape != (1, height, width) or not found.masks[0, height // 4, width // 4]:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(answers, range(8)))

    def test_a_graph_that_returns_nan_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broken: set[str] = set()

        def run(self: FakeEngine, feeds: Any, outputs: Any) -> Any:
            found = whole(self, feeds, outputs)
            return {name: values * np.float32(np.nan if name in broken else 1) for name, values in found.items()}

        whole = FakeEngine.run
        monkeypatch.setattr(FakeEngine, "run", run)
        predictor = fake_predictor(image_size=64)
        for name in ("iou_predictions", "low_res_masks"):
            predictor.set_image(IMAGE)
            broken.add(name)
            for use in (
                lambda: predictor.predict(points=[1, 1]),
                lambda: predictor.everything(points_per_side=2, pred_iou_thresh=0),
            ):
                with pytest.raises(EngineError, match=r"returned NaN or infinity\. .*samedge verify"):
                    use()
            broken.clear()
        broken.add("image_embeddings")
        with pytest.raises(EngineError, match=r"returned NaN or infinity"):
            predictor.set_image(IMAGE)

    def test_padding_may_lie_anywhere(self, predictor: Predictor) -> None:
        points = np.array([[[80.0, 60.0], [1e300, -1e300]]])
        found = predictor.predict(points=points, labels=[[1, -1]])
        assert np.array_equal(
            found.low_res_logits, predictor.predict(points=[[[80, 60], [0, 0]]], labels=[[1, -1]]).low_res_logits
        )

    def test_another_image_replaces_the_first(self, predictor: Predictor) -> None:
        first = predictor.image_embedding.copy()
        predictor.set_image(np.full((30, 90), 255, np.uint8))
        assert not np.array_equal(first, predictor.image_embedding)
        assert predictor.predict(boxes=[0, 0, 9, 9]).masks.shape == (1, 30, 90)

    def test_closed_it_refuses(self, predictor: Predictor) -> None:
        with predictor as same:
            assert same is predictor
        predictor.close()
        with pytest.raises(EngineError, match=r"encoder: this engine is closed"):
            predictor.set_image(IMAGE)

    def test_it_says_what_it_is(self, predictor: Predictor) -> None:
        assert (predictor.backend, predictor.device) == ("fake", "cpu")
        assert isinstance(predictor.info, Manifest)
        assert predictor.image_embedding.shape == (1, 3, 4, 4)
        assert (predictor.geometry.height, predictor.geometry.width) == (120, 160)

    def test_speed_is_in_milliseconds_for_each_step(self, predictor: Predictor) -> None:
        assert set(predictor.speed) == {"preprocess", "inference", "postprocess"}
        prediction = predictor.predict(boxes=BOXES)
        assert dict(prediction.speed) == predictor.speed
        assert all(value >= 0 for value in predictor.speed.values())
        assert predictor.speed["preprocess"] > 0
        assert predictor.speed["inference"] > 0


class TestChoice:
    def test_one_mask_a_prompt_in_their_order(self, predictor: Predictor) -> None:
        prediction = predictor.predict(boxes=BOXES)
        assert len(prediction) == 3
        assert prediction.prompt_index.tolist() == [0, 1, 2]
        assert prediction.mask_index.tolist() == [0, 0, 0]
        np.testing.assert_array_equal(prediction.scores, np.float32([FAKE_SCORES[0]] * 3))  # type: ignore[arg-type]
        assert prediction.boxes.tolist() == [[0, 0, 79, 59], [80, 60, 159, 119], [40, 30, 119, 89]]

    def test_three_masks_a_prompt_with_multimask(self, predictor: Predictor) -> None:
        prediction = predictor.predict(points=[[80, 60], [20, 20]], multimask=True)
        assert prediction.prompt_index.tolist() == [0, 0, 0, 1, 1, 1]
        assert prediction.mask_index.tolist() == [1, 2, 3, 1, 2, 3]
        np.testing.assert_allclose(prediction.scores, FAKE_SCORES[1:] * 2)
        areas = prediction.masks.sum(axis=(1, 2))
        assert areas[0] < areas[1] < areas[2]

    @pytest.mark.parametrize(
        ("conf", "kept"), [(None, [1, 2, 3]), (0.0, [1, 2, 3]), (0.65, [1, 2]), (0.75, [1]), (0.99, [])]
    )
    def test_nothing_is_dropped_but_by_conf(self, predictor: Predictor, conf: float | None, kept: list[int]) -> None:
        prediction = predictor.predict(boxes=BOXES, multimask=True, conf=conf)
        assert prediction.mask_index.tolist() == kept * 3
        assert prediction.prompt_index.tolist() == [at for at in range(3) for _ in kept]
        assert len(prediction.masks) == len(prediction.boxes) == len(prediction.low_res_logits) == 3 * len(kept)

    def test_conf_keeps_what_is_greater_and_not_what_is_equal(self, predictor: Predictor) -> None:
        score = float(predictor.predict(boxes=BOXES[0]).scores[0])
        assert len(predictor.predict(boxes=BOXES[0], conf=score)) == 0

    def test_no_boxes_are_no_masks(self, predictor: Predictor) -> None:
        prediction = predictor.predict(boxes=np.empty((0, 4)))
        assert len(prediction) == 0
        assert prediction.masks.shape == (0, 120, 160)
        assert prediction.boxes.shape == (0, 4)
        assert list(prediction.iter_masks()) == []
        assert calls(predictor) == []


class TestChunks:
    @pytest.mark.parametrize(("size", "expected"), [(16, [5]), (5, [5]), (2, [2, 2, 1]), (1, [1] * 5)])
    def test_long_batches_are_done_in_several_calls(self, predictor: Predictor, size: int, expected: list[int]) -> None:
        predictor.prompts_per_call = size
        boxes = [[at, at, at + 40, at + 40] for at in (60, 0, 20, 80, 40)]
        prediction = predictor.predict(boxes=boxes)
        assert [len(call["point_coords"]) for call in calls(predictor)] == expected
        assert prediction.boxes[:, 0].argsort().tolist() == [1, 2, 4, 0, 3]

    @pytest.mark.parametrize("size", [0, -1])
    def test_at_least_one_prompt_a_call(self, predictor: Predictor, size: int) -> None:
        with pytest.raises(UsageError, match=rf"invalid prompts_per_call {size}"):
            predictor.prompts_per_call = size

    def test_the_default_is_16(self, predictor: Predictor) -> None:
        predictor.predict(points=np.full((40, 2), 5.0))
        assert [len(call["point_coords"]) for call in calls(predictor)] == [16, 16, 8]


class TestPrediction:
    def test_masks_are_made_once_and_one_by_one_alike(self, predictor: Predictor) -> None:
        prediction = predictor.predict(boxes=BOXES, multimask=True)
        assert prediction.masks.dtype == np.bool_
        assert prediction.masks is prediction.masks
        for mask, again in zip(prediction.masks, prediction.iter_masks(), strict=True):
            np.testing.assert_array_equal(mask, again)

    @pytest.mark.parametrize("index", [1, slice(1, 2), np.array([False, True, False]), [1], np.array([1])])
    def test_some_of_it_is_a_prediction(self, predictor: Predictor, index: Any) -> None:
        whole = predictor.predict(boxes=BOXES)
        part = whole[index]
        assert isinstance(part, Prediction)
        assert part.prompt_index.tolist() == [1]
        np.testing.assert_array_equal(part.masks, whole.masks[1:2])
        np.testing.assert_array_equal(part.boxes, whole.boxes[1:2])

    def test_masks_that_do_not_fit_into_memory_say_what_to_do(
        self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prediction = predictor.predict(boxes=BOXES)

        def refuse(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(np, "empty", refuse)
        with pytest.raises(UsageError, match=r"3 masks of 160 x 120 px need 0\.0 GB\. Use iter_masks\(\)"):
            _ = prediction.masks


class TestEmbeddings:
    @pytest.fixture
    def saved(self, predictor: Predictor, tmp_path: Path) -> Path:
        path = tmp_path / "deep" / "image.npz"
        predictor.save_embedding(path)
        return path

    def test_a_saved_embedding_gives_the_same_masks(self, predictor: Predictor, saved: Path) -> None:
        other = fake_predictor(image_size=64)
        other.load_embedding(str(saved))
        np.testing.assert_array_equal(other.image_embedding, predictor.image_embedding)
        assert other.geometry == predictor.geometry
        np.testing.assert_array_equal(other.predict(boxes=BOXES).masks, predictor.predict(boxes=BOXES).masks)
        assert other.speed["preprocess"] == 0
        assert [path.name for path in saved.parent.iterdir()] == ["image.npz"]

    def test_it_is_written_under_exactly_this_name_and_replaces_an_older_one(
        self, predictor: Predictor, tmp_path: Path
    ) -> None:
        path = tmp_path / "no-suffix"
        path.write_bytes(b"old")
        predictor.save_embedding(path)
        predictor.load_embedding(path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["no-suffix"]

    def with_manifest(self, **changes: Any) -> Predictor:
        predictor = fake_predictor(image_size=64)
        manifest = predictor.info
        model = msgspec.structs.replace(manifest.model, **changes)
        graphs = predictor._graphs
        return Predictor(msgspec.structs.replace(manifest, model=model), graphs.encoder, graphs.decoder)

    def test_one_of_another_model_is_refused(self, saved: Path) -> None:
        other = self.with_manifest(name="mobile_sam", checkpoint_sha256="f" * 64)
        with pytest.raises(ImageError, match=r"image\.npz: the embedding is of another model: fake at 64 px") as caught:
            other.load_embedding(saved)
        assert "mobile_sam" in str(caught.value)

    def test_one_of_another_input_size_is_refused(self, saved: Path) -> None:
        with pytest.raises(ImageError, match=r"of another model: fake at 64 px.* at 128 px"):
            fake_predictor(image_size=128).load_embedding(saved)

    def test_the_same_checkpoint_through_other_graphs_is_taken(self, saved: Path) -> None:
        self.with_manifest(name="renamed").load_embedding(saved)

    def test_no_such_file_is_a_storage_error(self, predictor: Predictor, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"nothing\.npz: cannot read this: No such file"):
            predictor.load_embedding(tmp_path / "nothing.npz")

    @pytest.mark.parametrize("keep", [0, 4, 100, 400, -30])
    def test_one_that_is_cut_short_is_an_error(self, predictor: Predictor, saved: Path, keep: int) -> None:
        saved.write_bytes(saved.read_bytes()[:keep])
        with pytest.raises(ImageError, match=r"image\.npz: not an embedding saved by samedge, or damaged"):
            predictor.load_embedding(saved)
        with pytest.raises(UsageError, match=r"no image is set"):
            predictor.predict(points=[1, 1])

    def test_other_files_are_an_error(self, predictor: Predictor, tmp_path: Path) -> None:
        np.save(tmp_path / "array.npy", np.zeros(3))
        np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
        np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
        (tmp_path / "text.npz").write_text("hello")
        for name in ("array.npy", "arrays.npz", "pickle.npy", "text.npz"):
            with pytest.raises(ImageError, match=r"not an embedding"):
                predictor.load_embedding(tmp_path / name)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("version", np.int64(2), "format 2, but this samedge reads 1"),
            ("embedding", np.full((1, 3, 4, 4), np.nan, np.float32), "damaged: not finite"),
            ("embedding", np.zeros((1, 3, 4, 4)), "damaged: not finite float32"),
            (
                "embedding",
                np.zeros((1, 3, 5, 5), np.float32),
                r"float32\[1, 3, 5, 5\] of a 160 x 120 px image, but the decoder expects float32",
            ),
            ("embedding", np.array("text"), "damaged"),
            ("image_height", np.int64(0), "damaged"),
            ("image_height", np.zeros(3), "not an embedding"),
        ],
    )
    def test_wrong_contents_are_an_error(
        self, predictor: Predictor, saved: Path, name: str, value: Any, message: str
    ) -> None:
        with np.load(saved) as file:
            contents = dict(file)
        np.savez(saved, **{**contents, name: value})
        with pytest.raises(ImageError, match=message):
            predictor.load_embedding(saved)

    def test_a_full_disk_leaves_the_older_file(
        self, predictor: Predictor, saved: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = saved.read_bytes()

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(StorageError, match=r"No space left"):
            predictor.save_embedding(saved)
        assert saved.read_bytes() == before
        assert [path.name for path in saved.parent.iterdir()] == ["image.npz"]
