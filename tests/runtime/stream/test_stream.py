"""Streams: overlap, bounds, order, errors that name their image, ends; with events in place of time."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeAlias

import cv2
import numpy as np
import pytest
from PIL import Image
from support.bundles import write_small_bundle

import samedge
from samedge.errors import CancelledError, EngineError, ImageError, PromptError, SamedgeError, UsageError
from samedge.runtime.everything.found import FoundMasks
from samedge.runtime.everything.parameters import EverythingOptions
from samedge.runtime.predictor import Predictor
from samedge.runtime.results.prediction import Prediction
from samedge.runtime.stream.stream import Stream
from samedge.testing.engine import FakeEngine
from samedge.testing.predictor import fake_predictor
from samedge.types import Array, ImageArray

LONG_S = 60.0
"""Where a test waits for an event, it fails after this; it never takes that long."""

BOX = {"boxes": [8, 8, 40, 40]}
DISCS: EverythingOptions = {"points_stride": 4, "conf_thres": 0.75}
"""With these `Predictor.everything` finds 16 discs in a square image."""

Run: TypeAlias = Callable[[dict[str, Array]], dict[str, Array]]


def picture(seed: int = 0, height: int = 48, width: int = 64) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pictures(count: int) -> list[ImageArray]:
    return [picture(seed, 40 + seed, 64 - seed) for seed in range(count)]


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "samedge-stream"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert workers() == []
    yield
    assert workers() == []


@pytest.fixture
def predictor() -> Predictor:
    return fake_predictor(image_size=256)


def raw_engine(predictor: Predictor, role: str) -> FakeEngine:
    graphs: Any = predictor._graphs
    raw = (graphs.encoder if role == "encoder" else graphs.decoder.engine)._raw
    assert isinstance(raw, FakeEngine)
    return raw


def around(predictor: Predictor, role: str, do: Callable[[Run, dict[str, Array]], dict[str, Array]]) -> None:
    """Puts ``do(run, feeds)`` in place of a graph; ``run(feeds)`` is what it was."""
    raw = raw_engine(predictor, role)
    raw._function = partial(do, raw._function)  # type: ignore[arg-type]


class Log:
    """What happened, in order, from any thread; others can wait for an event."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, event: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: event in self.events, LONG_S), (event, self.events)


def logged(predictor: Predictor, log: Log) -> None:
    """Logs "encode 0", "encoded 0", "decode 0" ... of the graphs, counting calls."""

    def encode(run: Run, feeds: dict[str, Array]) -> dict[str, Array]:
        at = len(raw_engine(predictor, "encoder").calls) - 1
        log(f"encode {at}")
        outputs = run(feeds)
        log(f"encoded {at}")
        return outputs

    def decode(run: Run, feeds: dict[str, Array]) -> dict[str, Array]:
        log(f"decode {len(raw_engine(predictor, 'decoder').calls) - 1}")
        return run(feeds)

    around(predictor, "encoder", encode)
    around(predictor, "decoder", decode)


def assert_equal(have: Prediction, want: Prediction) -> None:
    np.testing.assert_array_equal(have.low_res_logits, want.low_res_logits)
    np.testing.assert_array_equal(have.scores, want.scores)
    np.testing.assert_array_equal(have.masks, want.masks)
    np.testing.assert_array_equal(have.prompt_index, want.prompt_index)
    assert have.geometry == want.geometry


class TestResults:
    def test_are_those_of_one_image_after_the_other(self, predictor: Predictor) -> None:
        images = pictures(7)
        items = list(predictor.stream(images, BOX))
        assert [item.index for item in items] == list(range(7))
        for item, image in zip(items, images, strict=True):
            predictor.set_image(image)
            assert_equal(item.result, predictor.predict(**BOX))  # type: ignore[arg-type]
            assert (item.path, item.error, item.image) == (None, None, None)
            assert set(item.speed) == {"preprocess", "inference", "postprocess"}
            assert dict(item.speed) == dict(item.result.speed)

    @pytest.mark.parametrize("bound", [1, 3])
    def test_of_a_real_bundle(self, tmp_path: Path, bound: int) -> None:
        images = pictures(4)
        with samedge.load(write_small_bundle(tmp_path / "small-samedge")) as predictor:
            found = [item.result for item in predictor.stream(images, BOX, queue_size=bound)]
            for have, image in zip(found, images, strict=True):
                predictor.set_image(image)
                assert_equal(have, predictor.predict(**BOX))  # type: ignore[arg-type]

    def test_everything(self, predictor: Predictor) -> None:
        images = [picture(seed, 256, 256) for seed in range(3)]
        stream = predictor.stream(images, dict(DISCS), decode=Predictor.everything)
        for item, image in zip(stream, images, strict=True):
            want = predictor.twin().everything(image, **DISCS)
            assert isinstance(item.result, FoundMasks)
            assert len(item.result) == 16
            assert item.result.rles == want.rles
            assert set(item.speed) == {"preprocess", "inference", "postprocess"}

    def test_of_any_function_of_a_predictor(self, predictor: Predictor, tmp_path: Path) -> None:
        def decode(one: Predictor, name: str) -> tuple[int, int]:
            one.save_embedding(tmp_path / name)
            one.predict(points=[3, 3])
            return one.geometry.height, one.geometry.width

        pairs = [(image, {"name": f"{at}.npz"}) for at, image in enumerate(pictures(3))]
        sizes = [item.result for item in predictor.stream(pairs, decode=decode)]
        assert sizes == [(40, 64), (41, 63), (42, 62)]
        predictor.load_embedding(tmp_path / "1.npz")
        assert predictor.geometry.height == 41


class TestSources:
    def test_images_of_every_kind(self, predictor: Predictor, tmp_path: Path) -> None:
        path = tmp_path / "photo.png"
        cv2.imwrite(str(path), picture())
        pil = Image.fromarray(np.ascontiguousarray(picture()[..., ::-1]))
        items = list(predictor.stream((source for source in (path, str(path), picture(), pil)), BOX))
        assert [item.path for item in items] == [str(path), str(path), None, None]
        for item in items[1:]:
            assert_equal(item.result, items[0].result)

    @pytest.mark.parametrize("pattern", ["", "frame*.png"])
    def test_folders_and_patterns_in_natural_order(self, predictor: Predictor, tmp_path: Path, pattern: str) -> None:
        for number in (10, 9, 1):
            cv2.imwrite(str(tmp_path / f"frame{number}.png"), picture(number))
        found = predictor.stream(tmp_path / pattern, BOX)
        assert [Path(item.path or "").name for item in found] == ["frame1.png", "frame9.png", "frame10.png"]

    def test_a_stack_of_images(self, predictor: Predictor) -> None:
        assert len(list(predictor.stream(np.stack([picture(1), picture(2)]), BOX))) == 2

    def test_nothing(self, predictor: Predictor) -> None:
        stream = predictor.stream([], BOX)
        assert list(stream) == []
        assert not stream.open

    def test_a_buffer_that_is_written_anew_each_time(self, predictor: Predictor) -> None:
        buffer = np.empty((48, 64, 3), np.uint8)

        def camera() -> Iterator[ImageArray]:
            for seed in range(5):
                buffer[:] = picture(seed)
                yield buffer

        embeddings = [item.result for item in predictor.stream(camera(), decode=lambda one: one.image_embedding.copy())]
        for seed, embedding in enumerate(embeddings):
            predictor.set_image(picture(seed))
            np.testing.assert_array_equal(embedding, predictor.image_embedding)

    def test_pixels_are_kept_only_if_wanted(self, predictor: Predictor) -> None:
        (item,) = predictor.stream([picture()], BOX, keep_images=True)
        np.testing.assert_array_equal(item.image, picture())
        crops = {**DISCS, "crop_n_layers": 1}
        (cropped,) = predictor.stream([picture()], crops, decode=Predictor.everything, keep_images=True)
        assert cropped.result.statistics.crops_encoded == 4
        with pytest.raises(UsageError, match=r"image 0, crop_n_layers: crops need the image.*keep_images=True"):
            next(predictor.stream([picture()], crops, decode=Predictor.everything))
        with pytest.raises(UsageError, match=r"image 0: only the embedding .* is available.*keep_images=True"):
            next(predictor.stream([picture()], decode=lambda one: one.image))


class TestPrompts:
    def test_an_images_own_come_on_top(self, predictor: Predictor) -> None:
        own = {"boxes": [0, 0, 16, 16], "multimask": False}
        items = list(
            predictor.stream([picture(), (picture(), own), (picture(), None)], {**BOX, "multimask": True, "conf": 0.75})
        )
        assert [len(item.result) for item in items] == [1, 1, 1]
        assert [item.result.mask_index.tolist() for item in items] == [[1], [0], [1]]
        assert items[1].result.boxes.tolist() == [[0, 0, 15, 15]]

    def test_a_function_sees_what_was_found_before(self, predictor: Predictor) -> None:
        asked: list[tuple[int, object, threading.Thread]] = []
        found: list[Prediction] = []
        images = pictures(4)

        def prompts(index: int, source: object) -> dict[str, object]:
            asked.append((index, source, threading.current_thread()))
            assert len(found) == index
            if not found:
                return {"boxes": [[8, 8, 16, 16]]}
            return {"boxes": found[-1].boxes + np.array([1, 1, 2, 2], np.float32)}

        for item in predictor.stream(images, prompts):
            found.append(item.result)
        assert [index for index, _, _ in asked] == [0, 1, 2, 3]
        assert all(source is image for (_, source, _), image in zip(asked, images, strict=True))
        assert {thread for _, _, thread in asked} == {threading.current_thread()}

    def test_that_are_missing_are_told_before_the_image_is_encoded(self, predictor: Predictor) -> None:
        with pytest.raises(PromptError, match=r"image 0: no prompts for this image.*decode=Predictor\.everything"):
            next(predictor.stream([picture()]))
        with pytest.raises(UsageError, match=r"image 0: predict has no argument 'bboxes'. Use one of: points"):
            next(predictor.stream([(picture(), {"bboxes": [1, 2, 3, 4]})]))
        assert raw_engine(predictor, "encoder").calls == []
        with pytest.raises(PromptError, match=r"image 0: no prompts for this image"):
            next(predictor.stream([picture()], lambda *_: {"labels": [1]}))

    def test_of_the_whole_stream_are_told_at_once(self, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match=r"predict has no argument 'bboxes'"):
            predictor.stream([], {"bboxes": [1, 2, 3, 4]})


class TestOverlap:
    def test_the_next_image_is_encoded_while_the_last_is_decoded(self, predictor: Predictor) -> None:
        log = Log()
        logged(predictor, log)

        def decode(run: Run, feeds: dict[str, Array]) -> dict[str, Array]:
            log.wait_for("encoded 1")  # would wait for ever, if the encoder waited for the decoder
            return run(feeds)

        around(predictor, "decoder", decode)
        first = next(stream := predictor.stream(pictures(2), BOX))
        assert first.index == 0
        assert log.events.index("encode 1") < log.events.index("decode 0")
        assert len(list(stream)) == 1

    @pytest.mark.parametrize("bound", [1, 2, 4])
    def test_it_is_never_further_ahead_than_it_may(self, predictor: Predictor, bound: int) -> None:
        log = Log()
        read = 0

        def source() -> Iterator[ImageArray]:
            nonlocal read
            for image in pictures(9):
                read += 1
                log(f"read {read}")
                yield image

        def decode(one: Predictor, **_: object) -> int:
            assert read <= decoded + 1 + bound
            log.wait_for(f"read {min(9, decoded + 1 + bound)}")
            assert read == min(9, decoded + 1 + bound)
            return read

        decoded = 0
        for item in predictor.stream(source(), decode=decode, queue_size=bound):
            assert item.index == decoded
            decoded += 1
        assert decoded == 9

    def test_the_encoder_runs_in_the_worker_and_the_decoder_here(self, predictor: Predictor) -> None:
        seen: dict[str, set[threading.Thread]] = {"encoder": set(), "decoder": set()}

        def note(role: str, run: Run, feeds: dict[str, Array]) -> dict[str, Array]:
            seen[role].add(threading.current_thread())
            return run(feeds)

        for role in seen:
            around(predictor, role, partial(note, role))
        list(predictor.stream(pictures(5), BOX))
        assert seen["decoder"] == {threading.current_thread()}
        assert [thread.name for thread in seen["encoder"]] == ["samedge-stream"]

    def test_two_threads_take_turns_at_the_encoder(self, predictor: Predictor) -> None:
        inside = []

        def encode(run: Run, feeds: dict[str, Array]) -> dict[str, Array]:
            inside.append(1)
            assert len(inside) == 1
            outputs = run(feeds)
            inside.pop()
            return outputs

        around(predictor, "encoder", encode)
        crops = {**DISCS, "crop_n_layers": 1}
        stream = predictor.stream(pictures(4), crops, decode=Predictor.everything, keep_images=True)
        assert [item.result.statistics.crops_encoded for item in stream] == [4] * 4
        assert len(raw_engine(predictor, "encoder").calls) == 4 * 5

    def test_nothing_is_read_before_the_first_item_is_asked_for(self, predictor: Predictor) -> None:
        read = []
        stream = predictor.stream((read.append(1) or image for image in pictures(2)), BOX)  # type: ignore[func-returns-value]
        assert workers() == []
        predictor.set_image(picture())  # not refused: the stream is not open yet
        assert read == []
        assert not stream.open
        assert len(list(stream)) == 2


def broken(tmp_path: Path) -> list[Path | ImageArray]:
    """Five images; the second is no image, the fourth has no pixels."""
    (tmp_path / "text.png").write_text("no image")
    return [picture(0), tmp_path / "text.png", picture(2), np.zeros((0, 5, 3), np.uint8), picture(4)]


class TestErrors:
    def test_of_an_image_name_it_and_end_the_stream(self, predictor: Predictor, tmp_path: Path) -> None:
        stream = predictor.stream(broken(tmp_path), BOX)
        assert next(stream).index == 0
        with pytest.raises(ImageError) as caught:
            next(stream)
        path = str(tmp_path / "text.png")
        assert str(caught.value).startswith(f"image 1 ({path}): the file is not an image. ")
        assert (caught.value.item_index, caught.value.item_path) == (1, path)
        assert not stream.open
        assert list(stream) == []

    def test_yielded_they_do_not_stop_the_others(self, predictor: Predictor, tmp_path: Path) -> None:
        items = list(predictor.stream(broken(tmp_path), BOX, errors="yield"))
        assert [item.index for item in items] == [0, 1, 2, 3, 4]
        assert [item.error is None for item in items] == [True, False, True, False, True]
        assert items[1].path == str(tmp_path / "text.png")
        assert str(items[3].error).startswith("image 3, image array: the image has no pixels")
        assert items[1].speed == {}
        assert len(items[4].result) == 1
        with pytest.raises(ImageError, match="the file is not an image"):
            _ = items[1].result

    def test_of_the_encoder(self, predictor: Predictor) -> None:
        def encode(run: Run, feeds: dict[str, Array]) -> dict[str, Array]:
            if len(raw_engine(predictor, "encoder").calls) == 2:
                raise EngineError("out of memory", where="encoder.onnx")
            return run(feeds)

        around(predictor, "encoder", encode)
        items = list(predictor.stream(pictures(3), BOX, errors="yield"))
        assert [str(item.error) for item in items] == ["None", "image 1, encoder.onnx: out of memory", "None"]
        assert isinstance(items[1].error, EngineError)

    def test_of_the_prompts(self, predictor: Predictor, tmp_path: Path) -> None:
        path = tmp_path / "photo.png"
        cv2.imwrite(str(path), picture())
        sources = [(path, {"points": [5, 5]}), (path, {"points": [500, 5]}), (path, {"points": [6, 6]})]
        items = list(predictor.stream(sources, errors="yield"))
        assert [item.error is None for item in items] == [True, False, True]
        assert isinstance(items[1].error, PromptError)
        assert str(items[1].error).startswith(f"image 1 ({path})")
        assert set(items[1].speed) == {"preprocess", "inference", "postprocess"}
        with pytest.raises(PromptError, match=r"image 1 \("):
            list(predictor.stream(sources))

    def test_of_an_item_that_is_no_image(self, predictor: Predictor) -> None:
        with pytest.raises(ImageError, match="image 0: an item of the source is a tuple of ndarray, int"):
            next(predictor.stream([(picture(), 3)], BOX))  # type: ignore[list-item]
        with pytest.raises(ImageError, match="image 0: invalid image of type float"):
            next(predictor.stream([1.5], BOX))  # type: ignore[list-item]

    @pytest.mark.parametrize("errors", ["raise", "yield"])
    def test_of_the_source_are_raised_after_its_images(self, predictor: Predictor, errors: Any) -> None:
        def source() -> Iterator[ImageArray]:
            yield from pictures(2)
            raise OSError("the camera is gone")

        stream = predictor.stream(source(), BOX, errors=errors)
        assert [next(stream).index, next(stream).index] == [0, 1]
        with pytest.raises(OSError, match="the camera is gone"):
            next(stream)
        assert list(stream) == []

    @pytest.mark.parametrize("errors", ["raise", "yield"])
    def test_of_a_folder_that_is_not_there(self, predictor: Predictor, tmp_path: Path, errors: Any) -> None:
        with pytest.raises(ImageError, match=r"nowhere: image not found"):
            next(predictor.stream(tmp_path / "nowhere", BOX, errors=errors))

    @pytest.mark.parametrize("raised", [CancelledError("enough"), ZeroDivisionError(), KeyboardInterrupt()])
    def test_some_are_never_yielded(self, predictor: Predictor, raised: BaseException) -> None:
        def decode(one: Predictor) -> int:
            raise raised

        stream = predictor.stream(pictures(9), decode=decode, errors="yield")
        with pytest.raises(type(raised)):
            next(stream)
        assert workers() == []
        assert not stream.open

    def test_a_cancelled_search_ends_the_stream(self, predictor: Predictor) -> None:
        cancel = Event()
        cancel.set()
        stream = predictor.stream(pictures(3), {"cancel": cancel}, decode=Predictor.everything, errors="yield")
        with pytest.raises(CancelledError):
            next(stream)

    def test_stop_iteration_does_not_pass_for_the_end(self, predictor: Predictor) -> None:
        with pytest.raises(RuntimeError, match="decoding image 0 raised StopIteration"):
            list(predictor.stream(pictures(2), decode=lambda _: next(iter(()))))

    def test_that_are_kept_do_not_keep_images(self, predictor: Predictor) -> None:
        held: list[weakref.ref[Predictor]] = []

        def decode(one: Predictor) -> None:
            held.append(weakref.ref(one))
            one.predict(points=[-5, 5])

        (item,) = predictor.stream([picture()], decode=decode, errors="yield")
        assert item.error is not None
        gc.collect()
        assert held[0]() is None


class TestEnd:
    def test_a_loop_that_is_left_ends_the_worker(self, predictor: Predictor) -> None:
        for item in predictor.stream(pictures(9), BOX):
            assert len(workers()) == 1
            if item.index == 1:
                break
        assert workers() == []
        predictor.set_image(picture())

    def test_an_exception_of_the_consumer_ends_it(self, predictor: Predictor) -> None:
        def consume() -> None:
            for _ in predictor.stream(pictures(9), BOX):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            consume()
        gc.collect()
        assert workers() == []

    def test_with(self, predictor: Predictor) -> None:
        with predictor.stream(pictures(9), BOX) as stream:
            next(stream)
            assert len(workers()) == 1
        assert workers() == []
        assert not stream.open
        stream.close()
        assert list(stream) == []

    def test_closed_before_it_began(self, predictor: Predictor) -> None:
        stream = predictor.stream(pictures(2), BOX)
        stream.close()
        assert list(stream) == []

    def test_closing_the_predictor_closes_its_stream(self, predictor: Predictor) -> None:
        with predictor:
            stream = predictor.stream(pictures(9), BOX)
            next(stream)
        assert workers() == []
        assert list(stream) == []

    def test_ending_what_a_notebook_left_behind(self, predictor: Predictor) -> None:
        left = predictor.stream(pictures(9), BOX)
        next(left)
        predictor.end_stream()
        assert workers() == []
        predictor.end_stream()
        assert len(list(predictor.stream(pictures(2), BOX))) == 2

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="the system cannot interrupt a thread")
    def test_interrupted_while_it_waits(self, predictor: Predictor) -> None:
        go_on = Event()

        def encode(run: Run, feeds: dict[str, Array]) -> dict[str, Array]:
            # The consumer waits for this image; ctrl-c comes, and the worker ends with the image it has in hand.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            assert go_on.wait(LONG_S)
            return run(feeds)

        around(predictor, "encoder", encode)
        stream = predictor.stream(pictures(9), BOX)
        closing = stream.close

        def close() -> None:
            go_on.set()
            closing()

        stream.close = close  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert workers() == []
        assert len(raw_engine(predictor, "encoder").calls) == 1

    def test_what_is_encoded_is_forgotten_with_it(self, predictor: Predictor) -> None:
        stream = predictor.stream(pictures(9), BOX)
        next(stream)
        watched = weakref.ref(stream)
        del stream
        assert watched() is None
        assert workers() == []

    def test_at_the_end_of_the_process(self) -> None:
        code = (
            "import numpy as np; from itertools import repeat;"
            "from samedge.testing.predictor import fake_predictor;"
            "images = repeat(np.zeros((64, 64, 3), np.uint8));"
            "stream = fake_predictor().stream(images, {'points': [1, 1]}); print(next(stream).index)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


class TestBesideAStream:
    def test_what_runs_the_graphs_is_refused(self, predictor: Predictor) -> None:
        predictor.set_image(picture())
        with predictor.stream(pictures(3), BOX) as stream:
            next(stream)
            for use in (
                lambda: predictor.predict(points=[1, 1]),
                lambda: predictor.set_image(picture()),
                predictor.everything,
                lambda: next(predictor.stream([picture()], BOX)),
            ):
                with pytest.raises(UsageError, match=r"a stream of this predictor is open.*end_stream.*twin\(\)"):
                    use()
            assert [item.index for item in stream] == [1, 2]
        assert len(predictor.predict(points=[1, 1])) == 1

    def test_the_present_image_stays(self, predictor: Predictor) -> None:
        predictor.set_image(picture(5))
        want, speed = predictor.predict(points=[9, 9]), predictor.speed
        for _ in predictor.stream(pictures(3), BOX):
            assert predictor.geometry.height == 48
            assert predictor.speed == speed
        assert_equal(predictor.predict(points=[9, 9]), want)
        np.testing.assert_array_equal(predictor.image, picture(5))

    def test_a_twin_may(self, predictor: Predictor) -> None:
        for item in predictor.stream(pictures(3), BOX):
            twin = predictor.twin()
            with pytest.raises(UsageError, match="no image is set"):
                twin.predict(points=[1, 1])
            twin.set_image(picture(item.index, 40 + item.index, 64 - item.index))
            assert_equal(twin.predict(**BOX), item.result)  # type: ignore[arg-type]
            twin.close()

    def test_the_predictor_of_decode_may_set_another_image(self, predictor: Predictor) -> None:
        def decode(one: Predictor) -> int:
            one.set_image(picture(3))
            return len(one.predict(points=[[1, 1], [2, 2]]))

        assert [item.result for item in predictor.stream(pictures(3), decode=decode)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {"queue_size": 0}, "invalid queue_size 0. Give 1 or more"),
        ([], {"errors": "skip"}, "invalid errors 'skip'. Choose raise or yield"),
        (picture(), {}, "not one ndarray. Give a folder, a list"),
        (Image.new("RGB", (5, 5)), {}, "not one Image"),
        (7, {}, "not one int"),
    ],
)
def test_arguments_that_mean_nothing(predictor: Predictor, sources: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SamedgeError, match=message):
        predictor.stream(sources, BOX, **options)


def test_the_public_name() -> None:
    assert samedge.Stream is Stream
