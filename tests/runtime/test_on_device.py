"""A predictor whose graphs run on a GPU: what stays there, what is ordered after what, and that masks stay the same.

The GPU and TensorRT are fakes that watch their user; the numbers come from onnxruntime.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import write_small_bundle
from support.fake_boards import Board, SharedGpu, picture
from support.in_threads import in_threads

from samedge.api.load import load
from samedge.engines.cuda import dlpack
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.onnxruntime import engine as ort_session
from samedge.engines.onnxruntime.binding import OrtArray
from samedge.errors import ImageError, TensorMismatchError
from samedge.runtime.decoder.decoders import bucket_of, bucketed, rows_of_bucket
from samedge.runtime.predictor import Predictor
from samedge.runtime.prompts.tokens import PromptGroup
from samedge.runtime.results.prediction import Prediction
from samedge.testing.engine import fake_engine
from samedge.types import FloatArray, TensorSpec

POINTS = np.array([[10, 12], [40, 30], [70, 50], [20, 55], [33, 9]], np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("device") / "small-samedge")


@pytest.fixture(scope="module")
def host(bundle: Path) -> Iterator[Predictor]:
    with load(bundle, "onnxruntime", "cpu", threads=1) as predictor:
        yield predictor


@pytest.fixture(params=[True, False], ids=["split", "whole"])
def board(request: pytest.FixtureRequest, bundle: Path, tmp_path: Path) -> Iterator[Board]:
    board = Board(bundle, tmp_path, split=request.param)
    yield board
    gc.collect()
    board.close()
    assert board.cuda.leaks() == []


def same(ours: Prediction, theirs: Prediction) -> None:
    np.testing.assert_allclose(ours.low_res_logits, theirs.low_res_logits, atol=1e-4)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


PROMPTS: list[dict[str, Any]] = [
    {"points": POINTS[:1]},
    {"points": POINTS},
    {"points": POINTS[:3], "multimask": True},
    {"boxes": [[5, 5, 60, 50], [10, 20, 70, 40], [0, 0, 79, 59]]},
    {"points": [POINTS[:2], POINTS[2:3], POINTS[3:]], "labels": [[1, 0], [1], [1, 1]]},
    {"points": np.tile(POINTS, (3, 1))},
    {"points": POINTS, "conf": 0.0},
]


def test_masks_are_those_of_the_host(board: Board, host: Predictor) -> None:
    with board.predictor() as predictor:
        assert predictor.device == "cuda:0"
        for seed in range(2):
            predictor.set_image(picture(seed))
            host.set_image(picture(seed))
            for prompts in PROMPTS:
                same(predictor.predict(**prompts), host.predict(**prompts))
            logits = host.predict(points=POINTS[:3]).low_res_logits
            same(predictor.predict(points=POINTS[:3], masks=logits), host.predict(points=POINTS[:3], masks=logits))


def test_only_what_is_wanted_is_drawn_and_copied(bundle: Path, tmp_path: Path, host: Predictor) -> None:
    board = Board(bundle, tmp_path)
    with board.predictor() as predictor:
        predictor.set_image(picture(0))
        host.set_image(picture(0))
        scores = np.sort(host.predict(points=POINTS).scores)
        conf = float((scores[1] + scores[2]) / 2)
        same(predictor.predict(points=POINTS, conf=conf), host.predict(points=POINTS, conf=conf))
        drawn = [call for call in board.fakes["decoder_masks"].called("set_input_shape") if call[0] == "mask_weights"]
        assert drawn[-1][1][0] == 4  # three prompts in a bucket of four
    board.close()


def test_the_embedding_never_crosses_to_the_host(board: Board) -> None:
    with board.predictor() as predictor:
        predictor.set_image(picture(0))
        sizes = [memory.data.nbytes for memory in board.cuda._pinned]
        assert len(sizes) == 1  # the picture went there, and nothing came back
        predictor.predict(points=POINTS)
        embedding = predictor.embedding
        assert isinstance(embedding.values, DeviceArray)
        assert embedding.device == "cuda:0"
        before = board.copies()
        predictor.set_image(picture(1))
        assert board.copies() == (before[0] + 1, before[1])
        values = predictor.image_embedding
        assert isinstance(values, np.ndarray)
        assert board.copies()[1] == before[1] + 1
        del embedding


def test_an_embedding_outlives_the_images_after_it(board: Board, host: Predictor) -> None:
    kept = []
    with board.predictor() as predictor:
        for seed in range(4):
            predictor.set_image(picture(seed))
            kept.append(predictor.embedding)
        for seed, embedding in enumerate(kept):
            host.set_image(picture(seed))
            predictor.set_embedding(embedding, 60, 80)
            same(predictor.predict(points=POINTS), host.predict(points=POINTS))
            np.testing.assert_allclose(embedding.numpy(), host.image_embedding, atol=1e-5)
    assert board.cuda.leaks() != []  # kept ones still need their memory
    host.set_image(picture(0))
    np.testing.assert_allclose(kept[0].numpy(), host.image_embedding, atol=1e-5)
    del kept, embedding


def test_nothing_is_allocated_in_the_steady_state(board: Board) -> None:
    with board.predictor() as predictor:
        for seed in range(3):
            predictor.set_image(picture(seed))
            predictor.predict(points=POINTS)
            predictor.predict(boxes=[1, 2, 50, 50])
        allocations, captured = board.cuda.allocations, board.cuda.captured
        streams, events = board.cuda.calls.count("create_stream"), board.cuda.calls.count("create_event")
        launches = board.cuda.launches
        for seed in range(3):
            predictor.set_image(picture(seed))
            predictor.predict(points=POINTS)
            predictor.predict(boxes=[1, 2, 50, 50])
        assert board.cuda.allocations == allocations
        assert board.cuda.captured == captured
        assert board.cuda.calls.count("create_stream") == streams
        assert board.cuda.calls.count("create_event") == events
        # Encoder and context once an image, prompts and masks twice; the whole decoder twice.
        assert board.cuda.launches - launches == 3 * (6 if board.split else 3)


def test_after_a_warm_up_the_first_calls_are_as_later_ones(board: Board) -> None:
    with board.predictor() as predictor:
        predictor.set_image(picture(1))
        before = predictor.predict(points=POINTS[:1])
        predictor.warm_up(prompts=(1, 4), points=(1, 2))
        same(predictor.predict(points=POINTS[:1]), before)  # the image is the one that it was
        allocations, captured = board.cuda.allocations, board.cuda.captured
        for prompts in ({"points": POINTS[:1]}, {"points": POINTS[:3]}, {"boxes": [1, 2, 50, 50]}):
            predictor.predict(**prompts)
        predictor.set_image(picture(2))
        predictor.predict(points=[[POINTS[0], POINTS[1]]])
        assert board.cuda.captured == captured
        # The embedding of the warm-up left its place; the one of the first image is still there.
        assert board.cuda.allocations - allocations <= (6 if board.split else 1)


def test_any_number_of_prompts_is_one_of_few_shapes(bundle: Path, tmp_path: Path, host: Predictor) -> None:
    board = Board(bundle, tmp_path)
    with board.predictor() as predictor:
        predictor.set_image(picture(3))
        host.set_image(picture(3))
        for count in range(1, 20):
            points = np.resize(POINTS, (count, 2))
            same(predictor.predict(points=points), host.predict(points=points))
        told = board.fakes["decoder_prompts"].called("set_input_shape")
        assert {shape[0] for name, shape in told if name == "point_coords"} == {1, 2, 4, 8}
        everything = predictor.everything(points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0)
        want = host.everything(points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0)
        assert len(everything) == len(want)
        np.testing.assert_array_equal(everything.boxes, want.boxes)
    board.close()


def test_the_next_image_is_encoded_while_the_last_is_decoded(board: Board, host: Predictor) -> None:
    with board.predictor() as predictor:
        found = list(predictor.stream([picture(seed) for seed in range(6)], {"points": POINTS}, queue_size=3))
    for seed, item in enumerate(found):
        host.set_image(picture(seed))
        same(item.result, host.predict(points=POINTS))
    del found, item


def test_two_predictors_and_several_threads_share_a_gpu(bundle: Path, tmp_path: Path, host: Predictor) -> None:
    cuda = SharedGpu()
    boards = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        boards.append(Board(bundle, tmp_path / str(number), cuda=cuda))
    want = []
    for seed in range(4):
        host.set_image(picture(seed))
        want.append(host.predict(points=POINTS))

    def work(board: Board, first: int) -> None:
        with board.predictor() as predictor:
            for turn in range(4):
                predictor.set_image(picture((first + turn) % 4))
                same(predictor.predict(points=POINTS), want[(first + turn) % 4])

    in_threads([partial(work, board, 2 * at) for at, board in enumerate(boards)])
    for board in boards:
        board.close()
    gc.collect()
    assert cuda.leaks() == []


def test_closing_while_arrays_live_frees_them_with_the_last(board: Board) -> None:
    predictor = board.predictor()
    predictor.set_image(picture(0))
    embedding = predictor.embedding
    lent = embedding.__dlpack__()
    predictor.close()
    gc.collect()
    assert [leak for leak in board.cuda.leaks() if leak.startswith("device memory")] != []
    del embedding
    gc.collect()
    assert board.cuda.leaks() != []
    del lent
    gc.collect()
    assert board.cuda.leaks() == []


def test_an_embedding_of_another_library_is_read_where_it_lies(board: Board, host: Predictor) -> None:
    torch = pytest.importorskip("torch")
    host.set_image(picture(0))
    want, values = host.predict(points=POINTS), host.image_embedding
    with board.predictor() as predictor:
        predictor.set_image(picture(0))
        embedding = predictor.embedding
        assert embedding.__dlpack_device__() == (dlpack.CUDA, 0)
        lent = Lent(embedding.values)
        predictor.reset_image()
        before = board.copies()
        predictor.set_embedding(lent, 60, 80)
        assert board.copies() == before
        same(predictor.predict(points=POINTS), want)
        predictor.set_embedding(torch.from_numpy(values.copy()), 60, 80)  # of the host: copied
        same(predictor.predict(points=POINTS), want)
        with pytest.raises(TensorMismatchError, match="is on cuda:1"):
            predictor.set_embedding(Lent(embedding.values, 1), 60, 80)
        with pytest.raises(ImageError, match="float64"):
            predictor.set_embedding(torch.from_numpy(values.astype(np.float64)), 60, 80)
        del embedding, lent


class Lent:
    """A tensor of another library that is nothing but memory on the GPU."""

    def __init__(self, array: FloatArray | DeviceArray, number: int = 0) -> None:
        self.array, self.number = array, number

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.number

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.array.__dlpack__(stream=stream)


def test_torch_and_numpy_take_embeddings_of_the_host(host: Predictor) -> None:
    torch = pytest.importorskip("torch")
    host.set_image(picture(0))
    embedding = host.embedding
    assert embedding.device == "cpu"
    assert torch.from_dlpack(embedding).data_ptr() == host.image_embedding.ctypes.data
    np.testing.assert_array_equal(np.from_dlpack(embedding), host.image_embedding)
    want = host.predict(points=POINTS)
    host.set_embedding(torch.from_numpy(embedding.numpy()), 60, 80)
    same(host.predict(points=POINTS), want)


def test_onnxruntimes_arrays_stay_bound_from_graph_to_graph(
    bundle: Path, host: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_session, "BOUND", {"CPUExecutionProvider": "cpu"})
    with load(bundle, "onnxruntime", "cpu", threads=1) as predictor:
        for seed in range(2):
            predictor.set_image(picture(seed))
            host.set_image(picture(seed))
            assert isinstance(predictor.embedding.values, OrtArray)
            for prompts in PROMPTS:
                same(predictor.predict(**prompts), host.predict(**prompts))
        kept = predictor.embedding
        found = list(predictor.stream([picture(seed) for seed in range(4)], {"points": POINTS}))
    for seed, item in enumerate(found):
        host.set_image(picture(seed))
        same(item.result, host.predict(points=POINTS))
    np.testing.assert_allclose(np.from_dlpack(kept).sum(), kept.numpy().sum())
    host.set_image(picture(1))
    np.testing.assert_allclose(kept.numpy(), host.image_embedding, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "most", "bucket"),
    [(0, None, 0), (1, None, 1), (3, None, 4), (16, None, 16), (17, None, 32), (5, 6, 6), (3, 16, 4), (9, 8, 9)],
)
def test_buckets_are_powers_of_two_up_to_what_the_engine_takes(count: int, most: int | None, bucket: int) -> None:
    assert bucket_of(count, most) == bucket


def test_groups_are_filled_up_with_their_last_prompt_and_never_with_points() -> None:
    spec = {"x": TensorSpec((1,), np.dtype(np.float32))}
    engine = fake_engine(spec, spec, dict)
    coords = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    masks = np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    labels = np.array([[1, -1], [0, 1], [1, 0]], np.int32)
    group = PromptGroup(np.arange(3), coords, labels, masks, np.ones(3, np.float32))
    assert bucketed(group, engine, None) is group  # nothing to gain on the host
    engine.on_device = True
    full = bucketed(group, engine, None)
    for name in ("index", "coords", "labels", "masks", "has_mask"):
        old, new = getattr(group, name), getattr(full, name)
        np.testing.assert_array_equal(new, old[[0, 1, 2, 2]])
    assert bucketed(group, engine, 3) is group
    assert rows_of_bucket([4, 0, 6], 8) == [4, 0, 6, 6]
    assert rows_of_bucket([4, 0, 6], 3) == [4, 0, 6]
    assert rows_of_bucket([], 8) == []
