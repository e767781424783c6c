"""Videos, cameras, addresses, lists, standard input and tensors as sources."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.file_server import FileServer, serve
from support.videos import frame, number_of, write_video

from samedge.errors import ImageError, SamedgeError, SamedgeWarning, UsageError
from samedge.runtime.image import videos
from samedge.runtime.image.addresses import address_of
from samedge.runtime.image.read import Frame, as_bgr, read_image
from samedge.runtime.image.sources import find_images, iter_sources, safe_stem


def frames_of(source: Any, stride: int = 1, **options: bool) -> list[Frame]:
    found = list(iter_sources(source, stride, **options))
    assert all(isinstance(one, Frame) for one in found)
    return [one for one in found if isinstance(one, Frame)]


class TestVideos:
    @pytest.mark.parametrize("suffix", [".mp4", ".avi"])
    @pytest.mark.parametrize(("stride", "numbers"), [(1, [*range(1, 11)]), (3, [3, 6, 9]), (10, [10])])
    def test_frames_with_their_numbers(self, suffix: str, stride: int, numbers: list[int], tmp_path: Path) -> None:
        path = write_video(tmp_path / f"clip{suffix}")
        found = frames_of(path, stride)
        assert [one.number for one in found] == numbers
        assert [number_of(as_bgr(one)) for one in found] == numbers
        assert {(one.path, one.count, one.rate) for one in found} == {(str(path), 10, 10 / stride)}

    def test_they_are_decoded_when_they_are_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[int] = []
        take = videos._next

        def count(*given: Any) -> Any:
            read.append(1)
            return take(*given)

        monkeypatch.setattr(videos, "_next", count)
        found = iter_sources(write_video(tmp_path / "clip.mp4"))
        next(found), next(found)
        assert len(read) == 2

    def test_a_folder_gives_its_images_and_then_its_videos(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.mp4", frames=2)
        cv2.imwrite(str(tmp_path / "b.png"), frame(5))
        found = list(iter_sources(tmp_path))
        assert [getattr(one, "number", None) for one in found] == [None, 1, 2]

    def test_an_animated_gif_is_a_video_and_another_an_image(self, tmp_path: Path) -> None:
        images = [Image.fromarray(frame(number)) for number in (2, 9, 20)]
        images[0].save(tmp_path / "many.gif", save_all=True, append_images=images[1:])
        images[0].save(tmp_path / "one.gif")
        assert len(frames_of(tmp_path / "many.gif")) == 3
        assert list(iter_sources(tmp_path / "one.gif")) == [tmp_path / "one.gif"]
        assert number_of(read_image(tmp_path / "many.gif")) == 2  # where one image is read, it is the first

    def test_one_that_is_cut_is_said_with_its_frame(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "clip.avi", frames=25)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 4 // 5])
        with pytest.warns(SamedgeWarning, match=r"clip\.avi: the video is cut .* it ends after frame \d+ of 25"):
            assert 1 < len(frames_of(path)) < 25

    @pytest.mark.parametrize("content", [b"", b"no video", b"\0" * 10_000])
    def test_what_is_no_video(self, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "clip.mp4"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"clip\.mp4: the video cannot be opened\. .*ffmpeg"):
            list(iter_sources(path))
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("stride", [0, -1, 1.5, True])
    def test_a_stride_that_is_none(self, stride: Any, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"vid_stride: invalid vid_stride"):
            list(iter_sources(write_video(tmp_path / "clip.mp4"), stride))

    def test_where_one_image_is_needed_it_is_said(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "clip.mp4")
        with pytest.raises(ImageError, match=r"this is a video, not an image\. Give it to SAM, YOLO or stream"):
            read_image(path)
        with pytest.raises(ImageError, match=r"only files of images are read here\. .*ffmpeg"):
            find_images(path)


class Camera:
    """What OpenCV gives for a camera: a frame each time it is asked, until it is unplugged."""

    def __init__(self, frames: int) -> None:
        self.frames, self.number, self.released = frames, 0, threading.Event()
        self.asked = threading.Semaphore(0)

    def isOpened(self) -> bool:
        return True

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        self.number += 1
        return self.number <= self.frames

    def retrieve(self) -> tuple[bool, Any]:
        return True, frame(self.number)

    def release(self) -> None:
        self.released.set()


class TestCameras:
    def test_every_frame_or_the_newest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cameras: list[Camera] = []

        def opened(source: int) -> Camera:
            assert source == 3
            cameras.append(Camera(20))
            return cameras[-1]

        monkeypatch.setattr(cv2, "VideoCapture", opened)
        assert [one.number for one in frames_of(3, buffered=True)] == [*range(1, 21)]
        newest = [one.number or 0 for one in frames_of("3")]
        assert newest == sorted(set(newest))
        assert newest[-1] == 20
        assert {one.path for one in frames_of(3)} == {"camera 3"}
        assert all(camera.released.wait(10) for camera in cameras)

    def test_a_reader_that_leaves_early_ends_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        camera = Camera(1 << 40)
        monkeypatch.setattr(cv2, "VideoCapture", lambda _: camera)
        monkeypatch.setattr(camera, "retrieve", lambda: (True, frame(1)))
        found = iter_sources(0)
        assert isinstance(next(found), Frame)
        assert isinstance(found, Iterator)
        found.close()  # type: ignore[attr-defined]
        assert camera.released.wait(10)

    def test_an_error_of_the_camera_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        camera = Camera(3)
        monkeypatch.setattr(cv2, "VideoCapture", lambda _: camera)
        monkeypatch.setattr(camera, "retrieve", None)
        with pytest.raises(TypeError):
            list(iter_sources(0))

    def test_none_there(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ImageError, match=r"camera 77: it cannot be opened"):
            list(iter_sources(77))
        assert capfd.readouterr() == ("", "")


class TestAddresses:
    @pytest.mark.parametrize(
        ("source", "address"),
        [
            ("https://host/a.jpg", "https://host/a.jpg"),
            (Path("https://host/a.jpg"), "https://host/a.jpg"),  # pathlib drops a slash
            ("RTSP://host:554/x", "rtsp://host:554/x"),
            ("photos/http", None),
            (3, None),
        ],
    )
    def test_they_are_told_from_paths(self, source: Any, address: str | None) -> None:
        assert address_of(source) == address

    def test_an_image_is_read_and_not_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        content = cv2.imencode(".png", frame(7))[1].tobytes()
        for name, kind in (("/a.png", "image/png"), ("/200", "image/png"), ("/a.png?size=3", "")):
            with serve(FileServer(content, kind=kind)) as server:
                (found,) = frames_of(server.address + name)
                assert (number_of(as_bgr(found)), found.path, found.number) == (7, server.address + name, None)
                assert number_of(read_image(server.address + name)) == 7
        assert list(tmp_path.iterdir()) == []

    def test_a_video_is_read_frame_by_frame(self, tmp_path: Path) -> None:
        content = write_video(tmp_path / "clip.mp4").read_bytes()
        with serve(FileServer(content, kind="video/mp4")) as server:
            found = frames_of(f"{server.address}/clip.mp4", 2)
        assert [number_of(as_bgr(one)) for one in found] == [2, 4, 6, 8, 10]
        with serve(FileServer(content, kind="video/mp4")) as server:
            assert len(frames_of(f"{server.address}/live", buffered=True)) == 10
            with pytest.raises(ImageError, match=r"this is a video stream, not an image"):
                read_image(f"{server.address}/live")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"statuses": [404] * 9}, r"the server answered 404"),
            ({"kind": "text/html"}, r"neither an image nor a stream, but text/html"),
            ({"redirect": "file:///etc/passwd"}, r"the server answered 302|cannot be read"),
            ({"redirect": "ftp://127.0.0.1/a.png"}, r"cannot be read|answered 302"),
            ({"cuts": [10] * 9}, r"cannot be read|damaged|not an image"),
        ],
    )
    def test_what_goes_wrong_is_a_sentence(self, options: dict[str, Any], message: str) -> None:
        content = cv2.imencode(".png", frame(7))[1].tobytes()
        with serve(FileServer(content, **options)) as server, pytest.raises(ImageError, match=message) as caught:
            list(iter_sources(f"{server.address}/a.png"))
        assert "\n" not in str(caught.value)

    def test_too_much_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("samedge.runtime.image.addresses._MOST_BYTES", 1 << 20)
        with (
            serve(FileServer(b"x" * (3 << 20), length=False)) as server,
            pytest.raises(ImageError, match=r"the image takes more than 1 MB"),
        ):
            read_image(f"{server.address}/a.png")

    @pytest.mark.parametrize(
        "address", ["http://127.0.0.1:1/a.png", "rtsp://127.0.0.1:1/a", "http://127.0.0.1:1/a.mp4"]
    )
    def test_nobody_there(self, address: str, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ImageError, match=r"cannot be (read|opened).*Check the address"):
            list(iter_sources(address))
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("page", ["https://www.youtube.com/watch?v=x", "https://youtu.be/x"])
    def test_pages_of_videos(self, page: str) -> None:
        with pytest.raises(ImageError, match=r"this is the page of a video"):
            list(iter_sources(page))

    def test_passwords_are_not_told(self) -> None:
        for address in ("rtsp://user:secret@127.0.0.1:1/a", "http://user:secret@127.0.0.1:1/a.png"):
            with pytest.raises(ImageError, match=r"://127\.0\.0\.1:1/a") as caught:
                list(iter_sources(address))
            assert "secret" not in str(caught.value)

    def test_names_of_outputs(self) -> None:
        assert safe_stem("https://host/a b/c%20d.jpg?x=1") == "c_20d"
        assert safe_stem("rtsp://user:secret@host:554/") == "host"
        assert safe_stem("photos/a b.jpg") == "a b"


class TestLists:
    def test_paths_beside_the_list_or_the_program_and_addresses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "lists" / "more").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "here.png"), frame(1))
        for name in ("beside.png", "more/a.png", "more/b.png"):
            cv2.imwrite(str(tmp_path / "lists" / name), frame(2))
        write_video(tmp_path / "lists" / "clip.mp4", frames=2)
        path = tmp_path / "lists" / "all.txt"
        path.write_text("here.png\n\n  beside.png  \nmore\nmore/*.png\nclip.mp4\n")
        monkeypatch.chdir(tmp_path)
        found = list(iter_sources(path))
        assert [Path(one).name for one in found[:6] if isinstance(one, (str, Path))] == [
            "here.png", "beside.png", "a.png", "b.png", "a.png", "b.png",
        ]  # fmt: skip
        assert [getattr(one, "number", None) for one in found[6:]] == [1, 2]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"not a list of images"),
            ("\n \n", r"not a list of images"),
            ("a\0b.png", r"not a list of images"),
            ("other.txt", r"names another list"),
            ("missing.png", r"missing\.png: image not found"),
        ],
    )
    def test_what_is_no_list(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "list.txt"
        path.write_text(text)
        with pytest.raises(SamedgeError, match=message):
            list(iter_sources(path))

    def test_several_streams_and_screens_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"several streams are not read at once"):
            list(iter_sources(tmp_path / "list.streams"))
        with pytest.raises(ImageError, match=r"the screen is not captured"):
            list(iter_sources("screen 0"))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    content = cv2.imencode(".png", frame(7))[1].tobytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    (found,) = frames_of("-")
    assert (number_of(as_bgr(found)), found.path) == (7, "stdin")
    with pytest.raises(ImageError, match=r"standard input: the image file is empty"):
        list(iter_sources("-"))


class TestTensors:
    def test_batches_of_rgb_floats(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
        tensor = torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
        found = frames_of(tensor.requires_grad_())
        assert [one.path for one in found] == ["image0.jpg", "image1.jpg"]
        np.testing.assert_array_equal([as_bgr(one) for one in found], images)
        np.testing.assert_array_equal(as_bgr(tensor[0]), images[0])
        np.testing.assert_array_equal(as_bgr((tensor[:1] * 255).round().byte()), images[0])
        assert np.abs(as_bgr(tensor[0].bfloat16()).astype(int) - images[0]).max() <= 1
        with pytest.raises(ImageError, match=r"the tensor holds 2 images"):
            as_bgr(tensor)

    def test_255_is_read_as_such_and_said(self) -> None:
        with pytest.warns(SamedgeWarning, match=r"read as 0\.\.255"):
            assert as_bgr(torch.full((3, 4, 5), 200.0)).max() == 200

    @pytest.mark.parametrize(
        ("tensor", "message"),
        [
            (torch.zeros(4, 5), r"shape \(4, 5\)"),
            (torch.zeros(1, 4, 5, 3), r"shape \(1, 4, 5, 3\)"),
            (torch.zeros(1, 3, 0, 3), r"shape"),
            (torch.full((3, 4, 5), torch.nan), r"no image"),
            (torch.full((3, 4, 5), -1.0), r"values from -1 to -1 are no image"),
            (torch.full((3, 4, 5), 1000.0), r"no image"),
            (torch.zeros(3, 4, 5, dtype=torch.int64), r"invalid tensor of int64"),
        ],
    )
    def test_what_is_no_image(self, tensor: torch.Tensor, message: str) -> None:
        with pytest.raises(ImageError, match=message):
            as_bgr(tensor)
