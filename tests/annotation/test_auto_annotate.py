"""Runs over folders, with a model that fills the boxes that it is asked for: what is written, and what survives."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.bundles import write_small_bundle
from support.pictures import write_image

import samedge
from samedge.annotation import pipeline
from samedge.annotation.auto_annotate import AnnotateStep, auto_annotate
from samedge.annotation.coco_file import CLASSES_NAME, DATA_NAME
from samedge.annotation.journal import JOURNAL_NAME
from samedge.annotation.objects import mask_forms
from samedge.annotation.records import ImageRecord
from samedge.api.sam import SAM
from samedge.errors import EngineError, ImageError, StorageError, UsageError
from samedge.runtime.image.read import read_image
from samedge.runtime.masks.rle import decode_rle
from samedge.runtime.predictor import Predictor
from samedge.types import ImageArray

BOX = [8, 16, 40, 48]
ROOT = Path(samedge.__file__).parent.parent


def one_box(image: ImageArray) -> tuple[list[list[int]], list[int]]:
    """The class is the picture's number."""
    return [BOX], [int(image[0, 0, 0])]


def outputs(folder: Path) -> dict[str, bytes]:
    """Everything but the manifest, whose lines come as images are done."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (JOURNAL_NAME, DATA_NAME, CLASSES_NAME)
    }


def lines_of(folder: Path) -> list[ImageRecord]:
    import msgspec

    lines = (folder / JOURNAL_NAME).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=ImageRecord) for line in lines[1:]]


class TestWhatIsWritten:
    def test_labels_mirror_the_folders(self, sam: SAM, photos: Path) -> None:
        report = auto_annotate(photos, one_box, sam)
        assert report.output == photos.parent / "photos_auto_annotate_labels"
        assert (report.images, report.annotated, report.empty, report.failures) == (10, 10, 0, 0)
        assert report.objects == 10
        found = {
            name: text.split(maxsplit=1)[0]
            for name, text in outputs(report.output).items()
            if name != "annotations.coco.json"
        }
        assert found == {
            **{f"{number}.txt": str(number).encode() for number in range(6)},
            "a/0.txt": b"6",
            "a/x.txt": b"7",
            "b/0.txt": b"8",
            "b/y.txt": b"9",
        }

    def test_a_line_is_class_and_shares(self, sam: SAM, tmp_path: Path) -> None:
        picture = write_image(tmp_path / "one.png", 3, height=48, width=64)
        report = auto_annotate(picture, one_box, sam)
        assert report.output == tmp_path / "one_auto_annotate_labels"
        (line,) = (report.output / "one.txt").read_text().splitlines()
        category, *shares = line.split(" ")
        points = np.array(shares, float).reshape(-1, 2) * (64, 48)
        assert category == "3"
        np.testing.assert_allclose(points.min(0), (8, 16), atol=1)
        np.testing.assert_allclose(points.max(0), (39, 47), atol=1)

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with numpy 2
    def test_coco_is_what_pycocotools_reads(self, sam: SAM, photos: Path) -> None:
        coco_module = pytest.importorskip("pycocotools.coco")
        report = auto_annotate(photos, one_box, sam, names=[f"thing {number}" for number in range(12)])
        coco = coco_module.COCO(str(report.coco))
        assert [coco.imgs[number]["file_name"] for number in sorted(coco.imgs)] == [
            *(f"{number}.png" for number in range(6)), "a/0.png", "a/x.png", "b/0.png", "b/y.png",
        ]  # fmt: skip
        assert len(coco.cats) == 12
        for annotation in coco.anns.values():
            number = annotation["category_id"]
            assert coco.cats[number]["name"] == f"thing {number - 1}"
            mask = coco.annToMask(annotation)
            assert mask.shape == (64, 64)
            assert mask.sum() == annotation["area"] == pytest.approx(32 * 32, rel=0.1)
            assert annotation["bbox"] == pytest.approx([8, 16, 32, 32], abs=1)
            assert annotation["predicted_iou"] == pytest.approx(0.9)
            assert "score" not in annotation
        found = coco.loadRes([{**annotation, "score": 1.0} for annotation in coco.anns.values()])
        assert len(found.anns) == 10

    def test_a_class_stays_with_its_box(self, sam: SAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Masks that SAM does not trust, and boxes that are none, are dropped among others."""
        write_image(tmp_path / "in" / "one.png")
        boxes = [[2, 2, 10, 10], [90, 90, 99, 99], [20, 2, 30, 10], [40, 2, 40, 10], [2, 40, 20, 60], [np.nan] * 4]
        classes = [5, 4, 3, 2, 1, 0]
        predict = Predictor.predict

        def distrustful(self: Predictor, **prompts: Any) -> Any:
            prediction = predict(self, **prompts)
            prediction.scores[1] = 0.1  # the second that it is asked for: the third box
            return prediction

        monkeypatch.setattr(Predictor, "predict", distrustful)
        steps: list[AnnotateStep] = []
        report = auto_annotate(tmp_path / "in", lambda _: (boxes, classes), sam, progress=steps.append)
        assert [line.split()[0] for line in (report.output / "one.txt").read_text().splitlines()] == ["5", "1"]
        assert report.dropped == {"box": 3, "score": 1}
        record = steps[-1].record
        assert record is not None
        assert [(found.proposal, found.category, found.box[:2]) for found in record.objects] == [
            (0, 5, (2, 2)),
            (4, 1, (2, 40)),
        ]
        assert [(drop.proposal, drop.category, drop.reason) for drop in record.dropped] == [
            (1, 4, "box"),
            (2, 3, "score"),
            (3, 2, "box"),
            (5, 0, "box"),
        ]
        assert record.dropped[1].predicted_iou == pytest.approx(0.1)
        assert record.dropped[1].box == (20, 2, 30, 10)

    def test_categories_of_coco_number_from_1(self, sam: SAM, photos: Path) -> None:
        """0 is the background of Datumaro and CVAT. YOLO's numbers stay from 0."""
        report = auto_annotate(photos, lambda _: ([BOX], [0]), sam, names=["coin"])
        document = json.loads(report.coco.read_text())
        assert document["categories"] == [{"id": 1, "name": "coin", "supercategory": ""}]
        assert {entry["category_id"] for entry in document["annotations"]} == {1}
        assert outputs(report.output)["0.txt"].startswith(b"0 ")

    def test_names_of_classes_lie_beside_the_labels(self, sam: SAM, photos: Path) -> None:
        report = auto_annotate(photos, lambda _: ([BOX, BOX], [2, 0]), sam, names={0: "coin", 2: 'a "b": c\n'})
        assert (report.output / CLASSES_NAME).read_text() == 'coin\n1\na "b": c\n'
        data = yaml.safe_load((report.output / DATA_NAME).read_text())
        assert data["names"] == {0: "coin", 1: "1", 2: 'a "b": c\n'}
        assert data["nc"] == 3
        assert (report.output / data["train"]).resolve() == photos.resolve()

    def test_a_data_yaml_of_somebody_else_is_kept(self, sam: SAM, photos: Path) -> None:
        folder = photos.parent / "labels"
        folder.mkdir()
        (folder / DATA_NAME).write_text("names: [mine]\n")
        auto_annotate(photos, one_box, sam, output_dir=folder)
        assert (folder / DATA_NAME).read_text() == "names: [mine]\n"
        assert not (folder / CLASSES_NAME).exists()

    def test_labels_of_an_image_called_classes(self, sam: SAM, tmp_path: Path) -> None:
        write_image(tmp_path / "in" / "classes.png", 1)
        for _ in range(2):
            report = auto_annotate(tmp_path / "in", one_box, sam)
            assert (report.output / CLASSES_NAME).read_text().startswith("1 0.")

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with numpy 2
    def test_polygons_in_the_coco_file(self, sam: SAM, photos: Path) -> None:
        coco_module = pytest.importorskip("pycocotools.coco")
        rle = auto_annotate(photos, one_box, sam)
        masks = {one["id"]: one["segmentation"] for one in json.loads(rle.coco.read_text())["annotations"]}
        polygons = auto_annotate(photos, one_box, sam, coco_segmentation="polygon")
        assert polygons.resumed == 10
        coco = coco_module.COCO(str(polygons.coco))
        for number, annotation in coco.anns.items():
            assert all(len(part) >= 6 for part in annotation["segmentation"])
            drawn, wanted = coco.annToMask(annotation).astype(bool), decode_rle(masks[number])
            assert (drawn & wanted).sum() / (drawn | wanted).sum() > 0.9
        with pytest.raises(UsageError, match="unknown coco_segmentation 'mask'"):
            auto_annotate(photos, one_box, sam, coco_segmentation="mask")  # type: ignore[arg-type]

    def test_masks_that_no_polygon_can_say(self, sam: SAM, tmp_path: Path) -> None:
        write_image(tmp_path / "in" / "one.png", height=64, width=64)
        report = auto_annotate(tmp_path / "in", lambda _: ([[10, 10, 11.2, 11.2], [20, 20, 20.2, 20.2]], [1, 2]), sam)
        assert report.dropped == {"polygon": 1, "empty": 1}
        assert "one.txt" not in outputs(report.output)
        (annotation,) = json.loads(report.coco.read_text())["annotations"]
        assert (annotation["category_id"], annotation["area"]) == (2, 1)

    def test_images_without_objects_have_no_file(self, sam: SAM, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        encoded = count_encoded(monkeypatch)
        report = auto_annotate(photos, lambda image: one_box(image) if image[0, 0, 0] == 7 else None, sam)
        assert outputs(report.output).keys() == {"a/x.txt", "annotations.coco.json"}
        assert (report.annotated, report.empty) == (1, 9)
        assert len(json.loads(report.coco.read_text())["images"]) == 10
        assert len(encoded) == 1, "SAM need not see an image without boxes"

    def test_same_stem_in_one_folder(self, sam: SAM, tmp_path: Path) -> None:
        write_image(tmp_path / "in" / "one.png", 1)
        write_image(tmp_path / "in" / "one.bmp", 2)
        report = auto_annotate(tmp_path / "in", one_box, sam)
        assert {name: text[:1] for name, text in outputs(report.output).items() if name.endswith("txt")} == {
            "one.png.txt": b"1",
            "one.bmp.txt": b"2",
        }

    @pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
    def test_names_that_are_no_text(self, sam: SAM, tmp_path: Path) -> None:
        picture = write_image(tmp_path / "in" / "one.png", 1)
        write_image(tmp_path / "in" / "two\nlines, 100 % \u00e4.png", 2)
        picture.rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.png"))
        report = auto_annotate(tmp_path / "in", one_box, sam)
        assert outputs(report.output).keys() == {
            "caf\\udce9.txt", "two\nlines, 100 % \u00e4.txt", "annotations.coco.json",
        }  # fmt: skip
        assert auto_annotate(tmp_path / "in", one_box, sam).resumed == 2

    @pytest.mark.parametrize("workers", [1, 3])
    def test_workers_do_not_matter(self, sam: SAM, photos: Path, tmp_path: Path, workers: int) -> None:
        first = auto_annotate(photos, one_box, sam, output_dir=tmp_path / "first", workers=2)
        second = auto_annotate(photos, one_box, sam, output_dir=tmp_path / "second", workers=workers)
        assert outputs(first.output) == outputs(second.output)


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that grows with each image that SAM looks at."""
    seen: list[int] = []
    predict = Predictor.predict

    def counting(self: Predictor, **prompts: Any) -> Any:
        seen.append(len(prompts["boxes"]))
        return predict(self, **prompts)

    monkeypatch.setattr(Predictor, "predict", counting)
    return seen


class TestDetectorOptions:
    def test_scores_classes_and_numbers(self, sam: SAM, tmp_path: Path) -> None:
        write_image(tmp_path / "in" / "one.png")
        boxes = [[x, 2, x + 8, 10] for x in (2, 12, 22, 32, 42)]
        found = (boxes, [0, 1, 2, 1, 0], [0.9, 0.2, 0.5, None, 0.4])

        def categories(**options: Any) -> list[int]:
            report = auto_annotate(tmp_path / "in", lambda _: found, sam, restart=True, **options)
            annotations = json.loads(report.coco.read_text())["annotations"]
            return [annotation["proposal"] for annotation in annotations]

        def kept(**options: Any) -> list[str]:
            report = auto_annotate(tmp_path / "in", lambda _: found, sam, restart=True, **options)
            path = report.output / "one.txt"
            return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

        assert kept() == ["0", "2", "1", "0"]
        assert kept(conf=0.4) == ["0", "2", "1"]
        assert kept(classes=[0]) == ["0", "0"]
        assert kept(max_det=2) == ["0", "1"]
        assert kept(classes=[7]) == []
        assert categories(conf=0.0) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("answer", "categories"),
        [
            ({"boxes": [BOX], "classes": [2]}, ["2"]),
            ({"boxes": [BOX], "classes": ["dog"], "scores": [0.7]}, ["1"]),
            ((np.array([BOX], np.float64), np.array([1.0])), ["1"]),
            (([], []), []),
            (None, []),
        ],
    )
    def test_answers(self, sam: SAM, tmp_path: Path, answer: Any, categories: list[str]) -> None:
        write_image(tmp_path / "in" / "one.png")
        report = auto_annotate(tmp_path / "in", lambda _: answer, sam, names={0: "cat", 1: "dog", 2: "cow"})
        path = report.output / "one.txt"
        assert ([line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []) == categories

    @pytest.mark.parametrize(
        "answer",
        [
            [1, 2, 3, 4],
            ([BOX], []),
            ([[1, 2, 3]], [0]),
            ([BOX], [0.5]),
            ([BOX], [-1]),
            ([BOX], ["horse"]),
            ([BOX], [0], [1, 2]),
            ([["a", "b", "c", "d"]], [0]),
            ([BOX], 7),
        ],
    )
    def test_answers_that_are_no_boxes_end_the_run(self, sam: SAM, photos: Path, answer: Any) -> None:
        with pytest.raises(UsageError):
            auto_annotate(photos, lambda _: answer, sam)

    def test_results_of_other_libraries(self, sam: SAM, tmp_path: Path) -> None:
        """Of the same shape as ours, in torch's tensors, and in a list of one."""
        torch = pytest.importorskip("torch")

        class Theirs:
            class boxes:
                xyxy = torch.tensor([BOX], dtype=torch.float32)
                cls = torch.tensor([4.0])
                conf = torch.tensor([0.8])

        write_image(tmp_path / "in" / "one.png")
        report = auto_annotate(tmp_path / "in", lambda _: [Theirs()], sam)
        (annotation,) = json.loads(report.coco.read_text())["annotations"]
        assert (annotation["category_id"], round(annotation["score"], 4)) == (5, 0.8)


class TestBrokenImages:
    def test_they_are_named_and_the_rest_is_done(self, sam: SAM, photos: Path) -> None:
        (photos / "2.png").write_bytes(b"no picture")
        (photos / "a" / "empty.jpg").write_bytes(b"")
        report = auto_annotate(photos, one_box, sam)
        assert (report.images, report.annotated, report.failures) == (11, 9, 2)
        assert [name for name, _ in report.failed] == ["2.png", "a/empty.jpg"]
        assert "not an image" in report.failed[0][1]
        assert "2.txt" not in outputs(report.output)
        assert len(json.loads(report.coco.read_text())["images"]) == 9

    def test_they_are_tried_again(self, sam: SAM, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = (photos / "2.png").read_bytes()
        (photos / "2.png").write_bytes(b"no picture")
        auto_annotate(photos, one_box, sam)
        (photos / "2.png").write_bytes(whole)
        encoded = count_encoded(monkeypatch)
        report = auto_annotate(photos, one_box, sam)
        assert (report.resumed, report.annotated, report.failures, len(encoded)) == (9, 1, 0, 1)
        assert "2.txt" in outputs(report.output)

    def test_a_detector_and_a_model_that_fail(self, sam: SAM, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def detector(image: ImageArray) -> Any:
            if image[0, 0, 0] == 3:
                raise EngineError("the detector failed")
            return one_box(image)

        predict = Predictor.predict

        def failing(self: Predictor, **prompts: Any) -> Any:
            if self.geometry.width == 60:
                raise EngineError("the decoder failed", cure="Try again")
            return predict(self, **prompts)

        monkeypatch.setattr(Predictor, "predict", failing)
        write_image(photos / "5.png", 5, width=60)
        report = auto_annotate(photos, detector, sam)
        assert report.failures == 2
        assert dict(report.failed) == {"3.png": "the detector failed", "5.png": "the decoder failed. Try again"}

    def test_errors_of_a_function_are_its_own(self, sam: SAM, photos: Path) -> None:
        def detector(image: ImageArray) -> Any:
            if image[0, 0, 0] < 3:
                return one_box(image)
            raise KeyError("no such key")

        with pytest.raises(KeyError, match="no such key"):
            auto_annotate(photos, detector, sam)
        assert auto_annotate(photos, detector_like(one_box, detector), sam).annotated >= 6


def detector_like(function: Callable[..., Any], named: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the same name, as one that was repaired has."""

    def repaired(image: ImageArray) -> Any:
        return function(image)

    repaired.__qualname__, repaired.__module__ = named.__qualname__, named.__module__
    return repaired


class TestResuming:
    @pytest.mark.parametrize("after", [1, 4, 9])
    def test_an_interrupted_run_goes_on(
        self, sam: SAM, photos: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (photos / "3.png").write_bytes(b"no picture")
        whole = auto_annotate(photos, one_box, sam, output_dir=tmp_path / "whole")
        folder = tmp_path / "parts"

        def interrupt(step: AnnotateStep) -> None:
            if step.pace.done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            auto_annotate(photos, one_box, sam, output_dir=folder, progress=interrupt)
        assert len(lines_of(folder)) >= after
        assert not list(folder.rglob(".tmp-*"))
        written = {record.label for record in lines_of(folder) if record.label}
        assert written == {name for name in outputs(folder) if name.endswith(".txt")}
        encoded = count_encoded(monkeypatch)
        report = auto_annotate(photos, one_box, sam, output_dir=folder)
        assert outputs(folder) == outputs(whole.output)
        assert report.resumed >= after - 1  # the broken one is tried again
        assert len(encoded) == 10 - 1 - report.resumed
        assert report.resumed + report.annotated + report.failures == 10

    def test_a_run_that_was_killed_goes_on(self, tmp_path: Path) -> None:
        """Interrupted by a person, then killed as no program can be killed more: what it leaves behind is whole."""
        for number in range(40):
            write_image(tmp_path / "in" / f"{number}.png", number, 400, 300)
        bundle = write_small_bundle(tmp_path / "bundle")
        boxes = {f"{number}.png": [[20, 30, 200, 300, number % 3], [5, 5, 90, 90, 1]] for number in range(40)}
        (tmp_path / "boxes.json").write_text(json.dumps(boxes))

        def start(output: str, end: signal.Signals | None = None, lines: int = 0) -> int:
            command = [sys.executable, "-m", "samedge", "annotate", "in", "--det-model", "boxes.json"]
            command += ["--sam-model", str(bundle), "-o", output, "--sam-conf", "-1"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            child = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            journal = tmp_path / output / JOURNAL_NAME
            while end is not None and child.poll() is None:
                if journal.exists() and journal.read_bytes().count(b"\n") > lines:
                    child.send_signal(end)
                    break
                time.sleep(0.005)
            _, told = child.communicate(timeout=120)
            assert b"Traceback" not in told
            return child.returncode

        assert start("parts", signal.SIGINT, lines=4) == 130
        first = len(lines_of(tmp_path / "parts"))
        assert 4 <= first < 40
        assert not list((tmp_path / "parts").rglob(".tmp-*"))
        assert {f"{name.partition('.')[0]}.png" for name in outputs(tmp_path / "parts")} == {
            record.image for record in lines_of(tmp_path / "parts")
        }
        assert start("parts", signal.SIGKILL, lines=first + 4) == -signal.SIGKILL
        assert first < len(lines_of(tmp_path / "parts")) < 40
        assert start("parts") == 0
        assert start("whole") == 0
        assert outputs(tmp_path / "parts") == outputs(tmp_path / "whole")
        assert len(lines_of(tmp_path / "parts")) == 40, "nothing was done twice"

    def test_a_line_that_was_cut_off_is_done_again(self, sam: SAM, photos: Path) -> None:
        report = auto_annotate(photos, one_box, sam)
        before = outputs(report.output)
        data = report.manifest.read_bytes()
        report.manifest.write_bytes(data[:-40])
        again = auto_annotate(photos, one_box, sam)
        assert (again.resumed, again.annotated) == (9, 1)
        assert outputs(again.output) == before
        assert report.manifest.read_bytes().count(b"\n") == 11

    def test_what_changed_is_done_again(self, sam: SAM, photos: Path) -> None:
        report = auto_annotate(photos, one_box, sam)
        write_image(photos / "1.png", 9, height=50)
        (report.output / "2.txt").unlink()
        write_image(photos / "c" / "new.png", 1)
        again = auto_annotate(photos, one_box, sam)
        assert (again.resumed, again.annotated) == (8, 3)
        assert (report.output / "1.txt").read_text()[0] == "9"
        assert (report.output / "2.txt").is_file()

    def test_labels_go_when_objects_do(self, sam: SAM, photos: Path) -> None:
        def detector(image: ImageArray) -> Any:
            return one_box(image) if image.shape[0] == 64 else None

        report = auto_annotate(photos, detector, sam)
        write_image(photos / "1.png", 9, height=50)
        auto_annotate(photos, detector, sam)
        assert not (report.output / "1.txt").exists()

    def test_other_settings_are_refused(self, sam: SAM, photos: Path) -> None:
        report = auto_annotate(photos, one_box, sam)
        before = outputs(report.output)
        for options in ({"conf": 0.3}, {"holes": "bridge"}, {"classes": [1]}, {"sam_conf": 0.5}, {"names": ["a"]}):
            with pytest.raises(UsageError, match=f"{next(iter(options))} was") as caught:
                auto_annotate(photos, one_box, sam, **options)
            assert "--restart" in str(caught.value)
        with pytest.raises(UsageError, match="detector_name was"):
            auto_annotate(photos, lambda _: None, sam)
        assert outputs(report.output) == before

    def test_another_folder_is_another_run(self, sam: SAM, photos: Path, tmp_path: Path) -> None:
        """Names are relative: those of a subfolder would be taken for others. A folder that was moved is the same."""
        report = auto_annotate(photos, one_box, sam, output_dir=tmp_path / "out")
        before = outputs(report.output)
        with pytest.raises(UsageError, match="folder was photos and is a"):
            auto_annotate(photos / "a", one_box, sam, output_dir=tmp_path / "out")
        (tmp_path / "moved").mkdir()
        photos.rename(tmp_path / "moved" / "photos")
        again = auto_annotate(tmp_path / "moved" / "photos", one_box, sam, output_dir=tmp_path / "out")
        assert again.resumed == 10
        assert outputs(again.output) == before

    def test_restart_removes_what_was_written_and_nothing_else(self, sam: SAM, photos: Path) -> None:
        report = auto_annotate(photos, one_box, sam)
        (report.output / "mine.txt").write_text("0 0 0 0 0")
        again = auto_annotate(photos, one_box, sam, classes=[7], restart=True)
        assert (again.resumed, again.annotated) == (0, 1)
        assert outputs(report.output).keys() == {"a/x.txt", "mine.txt", "annotations.coco.json"}

    def test_labels_of_somebody_else_are_kept(self, sam: SAM, photos: Path) -> None:
        folder = photos.parent / "labels"
        folder.mkdir()
        (folder / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
        report = auto_annotate(photos, one_box, sam, output_dir=folder)
        assert [name for name, _ in report.failed] == ["1.png"]
        assert (folder / "1.txt").read_text() == "0 0.5 0.5 0.1 0.1\n"

    def test_two_runs_at_once(self, sam: SAM, photos: Path) -> None:
        pytest.importorskip("fcntl")

        def meddle(step: AnnotateStep) -> None:
            if step.pace.done == 2:
                with pytest.raises(UsageError, match="another run"):
                    auto_annotate(photos, one_box, sam)

        assert auto_annotate(photos, one_box, sam, progress=meddle).annotated == 10

    def test_a_file_that_is_no_manifest(self, sam: SAM, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / JOURNAL_NAME).write_text("notes\nof mine\n")
        with pytest.raises(StorageError, match="not a manifest"):
            auto_annotate(photos, one_box, sam, output_dir=tmp_path / "out")
        assert (tmp_path / "out" / JOURNAL_NAME).read_text() == "notes\nof mine\n"


class TestMemory:
    def test_pictures_in_memory_do_not_grow_with_the_folder(
        self, sam: SAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(60):
            write_image(tmp_path / "in" / f"{number}.png", number)
        alive: weakref.WeakSet[Any] = weakref.WeakSet()
        most = 0

        def reading(path: Path, value_range: Any) -> ImageArray:
            nonlocal most
            image = read_image(path, value_range).view(_Watched)
            alive.add(image)
            most = max(most, len(alive))
            return image

        monkeypatch.setattr(pipeline, "read_image", reading)
        report = auto_annotate(tmp_path / "in", one_box, sam, workers=3)
        gc.collect()
        assert report.annotated == 60
        assert most <= 3 + 2, "as many as there are workers, and the one that is encoded"
        assert not alive

    def test_masks_in_memory_do_not_grow_with_the_boxes(
        self, sam: SAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_image(tmp_path / "in" / "one.png")
        forms = mask_forms
        alive, most = 0, 0

        def watching(mask: Any, policy: Any) -> Any:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            try:
                return forms(mask, policy)
            finally:
                alive -= 1

        monkeypatch.setattr(pipeline, "mask_forms", watching)
        auto_annotate(tmp_path / "in", lambda _: ([BOX] * 100, [0] * 100), sam, workers=2)
        assert most <= 2


class _Watched(np.ndarray[Any, Any]):
    """An array that can be in a set: by identity."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class TestProgress:
    def test_steps(self, sam: SAM, photos: Path) -> None:
        (photos / "2.png").write_bytes(b"no picture")
        steps: list[tuple[int, int, str | None]] = []

        def note(step: AnnotateStep) -> None:
            steps.append((step.pace.done, step.pace.total, None if step.record is None else step.record.status))

        auto_annotate(photos, one_box, sam, progress=note)
        assert [done for done, _, _ in steps] == list(range(11))
        assert {total for _, total, _ in steps} == {10}
        assert [status for _, _, status in steps].count("failed") == 1
        steps.clear()
        auto_annotate(photos, one_box, sam, progress=note)
        assert steps[-1] == (10, 10, "failed")


class TestRefused:
    @pytest.mark.parametrize(
        "options",
        [
            {"conf": 2.0},
            {"iou": -1},
            {"max_det": 0},
            {"workers": 0},
            {"parts": "some"},
            {"holes": "keep"},
            {"min_area": -1},
            {"det_model": 7},
            {"names": 3},
        ],
    )
    def test_options_that_mean_nothing(self, sam: SAM, photos: Path, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            auto_annotate(photos, **{"det_model": one_box, "sam_model": sam, **options})
        assert not (photos.parent / "photos_auto_annotate_labels" / JOURNAL_NAME).exists()

    def test_no_images(self, sam: SAM, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        with pytest.raises(ImageError, match="no images"):
            auto_annotate(tmp_path / "in", one_box, sam)
        with pytest.raises(ImageError, match="image not found"):
            auto_annotate(tmp_path / "none", one_box, sam)
        with pytest.raises(UsageError, match="has no file name"):
            auto_annotate(np.zeros((3, 3, 3), np.uint8), one_box, sam)  # type: ignore[arg-type]

    def test_a_full_disk_ends_the_run(self, sam: SAM, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = Path.write_bytes

        def full(self: Path, data: bytes) -> int:
            if "4.txt" in self.name:
                raise OSError(28, "No space left on device")
            return write(self, data)

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageError, match="No space left"):
            auto_annotate(photos, one_box, sam)
        folder = photos.parent / "photos_auto_annotate_labels"
        assert not list(folder.rglob(".tmp-*"))
        monkeypatch.undo()
        assert auto_annotate(photos, one_box, sam).annotated > 0


def test_the_name_at_the_top() -> None:
    assert samedge.auto_annotate is auto_annotate
