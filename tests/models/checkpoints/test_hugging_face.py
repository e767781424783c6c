"""SAM as transformers saves it, with the masks of transformers' own model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support import reference

from samedge.benchmarks.reference.packages import quiet_import
from samedge.bundle.archive import is_bundle
from samedge.errors import CheckpointError
from samedge.models.checkpoints.weights import checkpoint_digest
from samedge.models.load import load_any
from samedge.models.sam.load import load_model

WIDTH, SIDE = 32, 64


@cache
def model(masks: int = 3, depth: int = 3) -> Any:
    reference.torchvision()  # which its own imports look for
    transformers = quiet_import("transformers")
    config = transformers.SamConfig(
        vision_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
                       "patch_size": 16, "window_size": 3, "global_attn_indexes": [1], "output_channels": WIDTH,
                       "mlp_dim": 64, "num_pos_feats": WIDTH // 2},
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": WIDTH, "mlp_dim": 48, "iou_head_hidden_dim": 16, "iou_head_depth": depth,
                             "num_multimask_outputs": masks},
    )  # fmt: skip
    made = transformers.SamModel(config).eval()
    generator = torch.Generator().manual_seed(2)
    for name, value in made.state_dict().items():
        if value.is_floating_point() and "norm" not in name:
            value.copy_(torch.randn(value.shape, generator=generator) * (1 if "embed" in name else 0.2))
    return made


@pytest.mark.parametrize(("masks", "depth"), [(3, 3), (1, 2), (5, 4)])
@pytest.mark.parametrize("form", ["folder", "shards", "index", "file", "pytorch_model.bin", "prefixed"])
def test_the_answers_are_those_of_transformers(tmp_path: Path, form: str, masks: int, depth: int) -> None:
    theirs, path = model(masks, depth), tmp_path
    if form == "pytorch_model.bin":
        theirs.config.save_pretrained(tmp_path)
        torch.save(theirs.state_dict(), tmp_path / form)
    elif form == "prefixed":
        path = tmp_path / "best.pt"
        torch.save({"epoch": 1, "model": {f"sam.{key}": value for key, value in theirs.state_dict().items()}}, path)
    else:
        theirs.save_pretrained(tmp_path, **({} if form in ("folder", "file") else {"max_shard_size": "30KB"}))
        ends = {"index": "model.safetensors.index.json", "file": "model.safetensors"}
        path = tmp_path / ends[form] if form in ends else tmp_path
        assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (form in ("shards", "index"))
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    points, labels = torch.tensor([[[20.0, 30.0], [40.0, 10.0]]]), torch.tensor([[1, 0]])
    mine: Any = load_any(path).model
    with torch.no_grad():
        wanted = theirs(pixel_values=image, input_points=points[None], input_labels=labels[None], multimask_output=True)
        single = theirs(
            pixel_values=image, input_points=points[None], input_labels=labels[None], multimask_output=False
        )
        # transformers, as Meta's predictor, appends a padding point where there is no box; as the runtime does.
        padded = torch.cat([points, torch.zeros(1, 1, 2)], 1), torch.cat([labels, torch.tensor([[-1]])], 1)
        logits, scores = mine.decode(mine.encode(image), *padded, torch.zeros(1, 1, 16, 16), torch.zeros(1))
    assert logits.shape[1] == masks + 1
    torch.testing.assert_close(logits[:, 1:], wanted.pred_masks[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[:, 1:], wanted.iou_scores[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[:, :1], single.pred_masks[0], rtol=1e-4, atol=1e-4)


def test_a_folder_is_a_checkpoint(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert not is_bundle(tmp_path)
    assert loaded.checkpoint == tmp_path.name
    assert loaded.sha256 == checkpoint_digest(tmp_path)
    assert loaded.name == "sam_vit"
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "sam_hq"}, "type 'sam_hq'"),
        ({"mask_decoder_config": {"num_attention_heads": 4}}, "num_attention_heads = 4"),
        ({"vision_config": {"hidden_act": "relu"}}, "hidden_act = 'relu'"),
    ],
)
def test_a_configuration_that_is_not_read(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=says):
        load_any(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "absent.safetensors"])
def test_an_index_of_files_that_are_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="not beside its index"):
        load_any(tmp_path)
