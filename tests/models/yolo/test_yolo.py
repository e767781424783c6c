"""YOLOv8 and FastSAM as torch modules: sizes from weights, folding, refusals. Against Ultralytics: tests/peers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.yolo_models import yolov8_config
from torch import Tensor

from samedge.errors import CheckpointError, UnknownArchitectureError, UsageError
from samedge.models.checkpoints.read import Checkpoint
from samedge.models.yolo.configs import known_yolo_name, named_yolo_config, yolo_config
from samedge.models.yolo.load import YoloLoader, load_yolo, yolo_of
from samedge.models.yolo.seeded import seeded_yolo, seeded_yolo_digest
from samedge.models.yolo.yolo import MANY, ONE, Yolo, YoloConfig

SMALL = yolov8_config((8, 12, 16, 24, 32), (1, 2, 1, 1, 1, 2, 1, 1), 3, 8, 16, 16, 4, 8, 12)
DETECTOR = yolov8_config((8, 8, 16, 16, 24), (1, 1, 1, 1, 1, 1, 1, 1), 2, 16, 64, 16)

LAYER_KINDS = [layer.kind for layer in SMALL.layers]
SHORTCUT_LAYERS = [2, 4, 6, 8]

State = dict[str, Tensor]


def checkpoint(state: State, **facts: str) -> Checkpoint:
    return Checkpoint(dict(state), "0" * 64, Path("some.pt"), facts)


def unfolded(model: Yolo) -> State:
    """The same weights with batch norms that do something."""
    state: State = {}
    for key, value in model.state_dict().items():
        name = key.removesuffix(".conv.bias")
        if name != key:
            scale, mean, var = (torch.rand(len(value), dtype=torch.float64) + 0.5 for _ in range(3))
            # y = (conv - mean) / sqrt(var + eps) * scale + bias, and must be what the folded weights give.
            factor = scale / torch.sqrt(var + 1e-3)
            weight = model.state_dict()[f"{name}.conv.weight"]
            state[f"{name}.conv.weight"] = (weight / factor.reshape(-1, 1, 1, 1)).float()
            state |= {f"{name}.bn.weight": scale.float(), f"{name}.bn.bias": (value + mean * factor).float()}
            state |= {f"{name}.bn.running_mean": mean.float(), f"{name}.bn.running_var": var.float()}
            state[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)
        elif not key.endswith(".conv.weight") or ".dfl." in key:
            state[key] = value
    return state


class TestSizes:
    @pytest.mark.parametrize("config", [SMALL, DETECTOR, yolo_config("n", classes=1, segments=True)])
    def test_sizes_come_from_the_weights(self, config: YoloConfig) -> None:
        model = seeded_yolo(config)
        loaded = yolo_of(checkpoint(model.state_dict()))
        assert loaded.model.config == config
        assert loaded.name == known_yolo_name(config)
        image = torch.rand(1, 3, 64, 96)
        for ours, theirs in zip(loaded.model(image), model(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    @pytest.mark.parametrize("name", ["yolo11n-seg", "yolo12n", "yolo12l", "yolo26n-seg", "yolo26n-p6", "yolov8n-p2"])
    def test_every_architecture_comes_from_the_weights(self, name: str) -> None:
        model = seeded_yolo(name)
        config = model.config
        loaded = yolo_of(checkpoint(unfolded(model)))
        assert loaded.name == name
        assert loaded.model.config == config
        side = 2 * max(config.strides)
        output = loaded.model(torch.rand(1, 3, side, side))
        anchors = sum((side // stride) ** 2 for stride in config.strides)
        assert output[0].shape == (1, 4 + config.classes + config.prototypes, anchors)
        assert all(part.isfinite().all() for part in output)
        assert (len(output) == 2) == name.endswith("-seg")

    def test_a_yolo26_can_be_used_with_either_head(self) -> None:
        model = seeded_yolo("yolo26n")
        image = torch.rand(1, 3, 64, 64)
        many, one = model.with_head(MANY), model.with_head(ONE)
        assert (many.config.one_to_one, one.config.one_to_one) == (False, True)
        assert torch.equal(many(image)[0], model(image)[0])
        assert not torch.equal(one(image)[0], many(image)[0])
        assert yolo_of(checkpoint(one.state_dict())).model.config == one.config

    def test_outputs_have_the_shapes_of_their_exports(self) -> None:
        boxes, prototypes = seeded_yolo(SMALL)(torch.rand(2, 3, 64, 96))
        assert boxes.shape == (2, 4 + 3 + 4, 8 * 12 + 4 * 6 + 2 * 3)
        assert prototypes.shape == (2, 4, 16, 24)
        assert boxes[:, 4:7].min() >= 0
        assert boxes[:, 4:7].max() <= 1
        (alone,) = seeded_yolo(DETECTOR)(torch.rand(1, 3, 32, 32))
        assert alone.shape == (1, 6, 21)

    def test_a_box_without_extent_lies_on_its_anchor(self) -> None:
        model = seeded_yolo(DETECTOR)
        state = model.state_dict()
        state["model.22.dfl.conv.weight"].zero_()
        boxes = model(torch.rand(1, 3, 64, 96))[0][0, :4]
        centres = [(8 * (x + 0.5), 8 * (y + 0.5)) for y in range(8) for x in range(12)]
        torch.testing.assert_close(boxes[:2, : 8 * 12].T, torch.tensor(centres))
        torch.testing.assert_close(boxes[:, -1], torch.tensor([80.0, 48.0, 0.0, 0.0]))

    def test_batch_norms_are_folded(self) -> None:
        model = seeded_yolo(SMALL)
        loaded = yolo_of(checkpoint(unfolded(model)))
        for key, value in model.state_dict().items():
            torch.testing.assert_close(loaded.model.state_dict()[key], value, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
    def test_wrappers_around_the_keys(self, prefix: str) -> None:
        state = {prefix + key: value for key, value in unfolded(seeded_yolo(SMALL)).items()}
        assert YoloLoader().recognises(checkpoint(state))
        assert yolo_of(checkpoint(state)).model.config == SMALL

    @pytest.mark.parametrize("name", ["yolov8n", "yolov8s-seg", "yolov8m", "yolov8l-seg", "yolov8x"])
    def test_names_of_released_sizes(self, name: str) -> None:
        assert known_yolo_name(named_yolo_config(name)) == name

    def test_names_that_are_not_known(self) -> None:
        for name in ("yolov8q", "yolo13n", "yolo12n-p6", "yolov5n", "fastsam-m", ""):
            with pytest.raises(UsageError, match="Choose one of"):
                named_yolo_config(name)
        assert known_yolo_name(SMALL) == "yolov8-seg"


class TestFacts:
    def test_what_the_file_says(self) -> None:
        state = seeded_yolo(DETECTOR).state_dict()
        loaded = yolo_of(checkpoint(state, names='{"0": "cat", "7": "none"}', imgsz="500", batch_norm_eps="0.001"))
        assert loaded.names == {0: "cat", 1: "1"}
        assert loaded.image_size == 512
        assert yolo_of(checkpoint(state)).image_size == 640

    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({"layers": json.dumps([*LAYER_KINDS[:2], "C3k2", *LAYER_KINDS[3:], "Detect"])}, "layer 2 is a C3k2"),
            ({"layers": json.dumps([*LAYER_KINDS, "Pose"])}, "ends in a Pose"),
            ({"layers": json.dumps([*LAYER_KINDS, "Conv", "Detect"])}, "24 layers"),
            ({"activations": '["ReLU"]'}, "activations are ReLU"),
            ({"layers": json.dumps([*LAYER_KINDS, "Detect"]), "shortcut_layers": json.dumps([2, 4])}, "have shortcuts"),
        ],
    )
    def test_the_weights_of_a_yolov8_in_something_else(self, facts: dict[str, str], message: str) -> None:
        with pytest.raises(UnknownArchitectureError, match=message):
            yolo_of(checkpoint(seeded_yolo(DETECTOR).state_dict(), **facts))

    def test_a_plain_yolov8_is_none_of_these(self) -> None:
        facts = {
            "layers": json.dumps([*LAYER_KINDS, "Detect"]),
            "activations": '["SiLU"]',
            "shortcut_layers": json.dumps(SHORTCUT_LAYERS),
        }
        assert yolo_of(checkpoint(seeded_yolo(DETECTOR).state_dict(), **facts)).model.config == DETECTOR


def without(key: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        del state[key]

    return change


def put(key: str, *shape: int) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[key] = torch.zeros(shape)

    return change


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (without("model.22.cv2.0.2.weight"), "'model.22.cv2.0.2.weight' is missing"),
            (without("model.12.m.0.cv1.conv.bias"), "'model.12.m.0.cv1.conv.bias' is missing"),
            (put("model.22.cv2.3.2.weight", 1, 1, 1, 1), "'model.22.cv2.3.2.weight' is unexpected"),
            (put("model.9.cv1.conv.weight", 3, 3, 1, 1), "instead of"),
            (put("model.22.cv2.0.2.weight", 30, 16, 1, 1), "30 numbers"),
            (put("model.0.conv.weight", 3), "has the shape"),
        ],
    )
    def test_other_keys_and_shapes(self, change: Callable[[State], None], message: str) -> None:
        state = dict(seeded_yolo(SMALL).state_dict())
        change(state)
        with pytest.raises(UnknownArchitectureError, match=message) as caught:
            yolo_of(checkpoint(state))
        assert "samedge reads YOLOv8" in str(caught.value)

    def test_a_negative_variance(self) -> None:
        state = unfolded(seeded_yolo(DETECTOR))
        state["model.1.bn.running_var"] -= 5
        with pytest.raises(CheckpointError, match=r"model\.1"):
            yolo_of(checkpoint(state))

    def test_a_sam_is_no_yolo(self) -> None:
        assert not YoloLoader().recognises(checkpoint({"image_encoder.neck.0.weight": torch.zeros(1)}))


class TestSeeded:
    def test_the_same_seed_gives_the_same_weights(self) -> None:
        first, second, other = seeded_yolo(SMALL), seeded_yolo(SMALL), seeded_yolo(SMALL, seed=1)
        key = "model.22.cv3.1.2.weight"
        assert torch.equal(first.state_dict()[key], second.state_dict()[key])
        assert not torch.equal(first.state_dict()[key], other.state_dict()[key])
        assert seeded_yolo_digest("a") != seeded_yolo_digest("b")

    def test_by_name(self) -> None:
        loaded = load_yolo("seeded:fastsam-s")
        assert loaded.seeded
        assert loaded.name == "fastsam-s"
        assert loaded.model.config == yolo_config("s", classes=1, segments=True)

    @pytest.mark.parametrize("config", [yolo_config("n"), yolo_config("n", classes=1, segments=True)])
    def test_some_anchors_score_and_not_all(self, config: YoloConfig) -> None:
        torch.manual_seed(0)
        coarse = torch.rand(1, 3, 12, 12)
        image = torch.nn.functional.interpolate(coarse, size=(320, 320), mode="bilinear")
        output = seeded_yolo(config)(image)[0]
        best = output[0, 4 : 4 + config.classes].amax(0)
        assert 0 < (best > 0.1).float().mean() < 0.5
        assert output.isfinite().all()
