"""Results as programs written for Ultralytics read them: with the methods of tensors, on numpy."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from samedge.errors import UsageError
from samedge.runtime.results.host_array import HostArray
from samedge.runtime.results.results import Results


def results(count: int = 3) -> Results:
    masks = np.zeros((count, 20, 30), np.bool_)
    for number in range(count):
        masks[number, 2 : 5 + number, 3 : 9 + number] = True
    boxes = np.array([[3, 2, 8 + n, 4 + n, 0.5 + n / 8, n] for n in range(count)], np.float32)
    image = np.zeros((20, 30, 3), np.uint8)
    return Results(image, "a.jpg", {0: "cat", 1: "dog", 2: "owl"}, boxes=boxes, masks=masks)


def test_each_box_in_a_loop() -> None:
    found = results()
    assert found.boxes is not None
    seen = [(found.names[int(box.cls)], float(box.conf), box.xyxy[0].tolist()) for box in found.boxes]
    assert seen[1] == ("dog", 0.625, [3, 2, 9, 5])
    assert [found.names[int(number)] for number in found.boxes.cls] == ["cat", "dog", "owl"]
    assert [found.names[box.cls.int().item()] for box in found.boxes] == ["cat", "dog", "owl"]
    assert [found.names[number] for number in found.boxes.cls.int().tolist()] == ["cat", "dog", "owl"]
    assert found.names[found.boxes.cls[2]] == "owl"
    assert found.boxes.cls[2].cpu().numpy() == 2
    assert f"{found.boxes.conf[0]:.2f} {float(found.boxes[0].conf):.2f}" == "0.50 0.50"
    with pytest.raises(TypeError, match="this one has 3"):
        float(found.boxes.conf)


@pytest.mark.parametrize("name", ["xyxy", "xywh", "xyxyn", "xywhn", "conf", "cls", "data"])
def test_boxes_have_the_methods_of_tensors(name: str) -> None:
    found = results()
    array: Any = getattr(found.boxes, name)
    plain = np.asarray(array)
    assert isinstance(array, HostArray)
    assert type(array.cpu().numpy()) is np.ndarray
    for same in (
        array.cpu(),
        array.cuda(),
        array.to("cpu"),
        array.detach().cpu(),
        array.to("cuda:0", non_blocking=True),
    ):
        np.testing.assert_array_equal(same, plain)
    assert array.int().dtype == np.int32
    assert array.long().dtype == np.int64
    assert array.float().dtype == np.float32
    assert array.half().dtype == np.float16
    assert array.double().dtype == np.float64
    assert array.to(np.float64).dtype == np.float64
    assert array.bool().dtype == np.bool_
    assert array.byte().dtype == np.uint8
    assert array.tolist() == plain.tolist()
    assert array.shape == plain.shape
    assert array.numel() == plain.size
    assert array.dim() == plain.ndim
    assert array[:2].cpu().shape[0] == 2
    assert array[0].cpu().numpy().tolist() == plain[0].tolist()
    assert array[[True, False, True]].shape[0] == 2
    assert len(list(array)) == 3
    assert array.unsqueeze(0).cpu().shape == (1, *plain.shape)
    assert array.clone() is not array
    halves: Any = array / 2
    assert halves.cpu().numpy().tolist() == (plain / 2).tolist()
    assert array.max().item() == plain.max()
    assert isinstance(array.mean(), np.floating)


def test_of_torch_only_the_names_are_needed() -> None:
    class Dtype:
        def __str__(self) -> str:
            return "torch.float64"

    found = results()
    assert found.boxes is not None
    assert found.boxes.conf.to(Dtype()).dtype == np.float64
    with pytest.raises(UsageError, match="'gpu' is neither a device nor a dtype"):
        found.boxes.conf.to("gpu")


def test_masks_are_views() -> None:
    found = results()
    assert found.masks is not None
    data = found.masks.data
    assert data.dtype == np.bool_
    assert np.shares_memory(data, data.cpu().numpy())
    assert np.shares_memory(data, found.masks.data)
    assert data[0].cpu().numpy().shape == (20, 30)
    assert np.sum(data.float(), (1, 2)).tolist() == [18, 28, 40]
    assert data.permute(1, 2, 0).shape == (20, 30, 3)
    assert [int(mask.sum()) for mask in data] == [18, 28, 40]
    assert isinstance(data.any(), np.bool_)


def test_copies_and_pickles() -> None:
    found = results()
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found)), found.cpu().numpy().cuda().to("cpu", 1)):
        assert again.boxes is not None
        assert again.masks is not None
        assert found.boxes is not None
        assert found.masks is not None
        np.testing.assert_array_equal(again.boxes.data, found.boxes.data)
        np.testing.assert_array_equal(again.masks.data, found.masks.data)
    number = pickle.loads(pickle.dumps(found.boxes.conf[0]))  # type: ignore[union-attr]
    assert number == np.float32(0.5)
    assert json.dumps(found.boxes.cls.tolist()) == "[0.0, 1.0, 2.0]"  # type: ignore[union-attr]


def test_boxes_and_masks_move() -> None:
    found = results()
    assert found.boxes is not None
    assert found.masks is not None
    assert found.boxes.cpu().numpy().xyxy.shape == (3, 4)
    assert found.masks.to(device="cpu").data.shape == (3, 20, 30)


def test_what_there_is_not() -> None:
    found = results()
    assert (found.probs, found.keypoints, found.obb) == (None, None, None)
    assert (found[0].probs, found.new().keypoints) == (None, None)
    found.update(boxes=found.boxes, probs=None)
    with pytest.raises(UsageError, match="results have no keypoints"):
        found.update(keypoints=np.zeros((1, 17, 3)))  # type: ignore[arg-type]


def test_save_and_plot_take_the_same(tmp_path: object) -> None:
    found = results()
    path = found.save(f"{tmp_path}/a.png", conf=False, line_width=2)
    assert path == f"{tmp_path}/a.png"
    plain = found.plot(kpt_radius=5, kpt_line=True, probs=True)
    assert not np.array_equal(plain, found.plot(txt_color=(0, 0, 255)))
