"""Training of sam_demo: prompts, losses, the gradient of a step, resuming, and packing. Tiny models alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tools.train_sam_demo import train
from tools.train_sam_demo.batches import Batch, SceneBatches, jittered_box, tight_box
from tools.train_sam_demo.everything import best_ious, everything, suppress
from tools.train_sam_demo.losses import best_of_three, grouping_loss, mask_loss, real_iou
from tools.train_sam_demo.network import SAM_DEMO, TINY, Shape, build, cosine_filters, normalise
from tools.train_sam_demo.optimisation import Optimisers, RunningMean, rate
from tools.train_sam_demo.pack import LARGEST_BYTES, pack
from tools.train_sam_demo.rounds import Guide, Plan, corrected, first_prompts, step_backward
from tools.train_sam_demo.scenes import scene
from tools.train_sam_demo.scoring import innermost, mean_ious, next_click, score
from tools.train_sam_demo.token_decoder import decode_tokens
from tools.train_sam_demo.weights import read_sam

SQUARE = np.zeros((16, 16), np.bool_)
SQUARE[4:9, 6:13] = True


def tiny_batches() -> SceneBatches:
    return SceneBatches(seed=0, scenes=2, targets=4, size=TINY.image_size)


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    first, again, other = tiny_batches()[3], tiny_batches()[3], tiny_batches()[4]
    for name in first.__slots__:
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.images, other.images)


def test_first_points_lie_in_their_targets_and_boxes_around_them() -> None:
    batch = SceneBatches(seed=0, scenes=4, targets=6, size=128)[0]
    half = (batch.points / 2).long()
    near = torch.nn.functional.max_pool2d(batch.hard[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert all(near[i, y, x] for i, (x, y) in enumerate(half.tolist()))
    assert (batch.boxes[:, 1] > batch.boxes[:, 0]).all()
    prompts = first_prompts(batch)
    assert prompts.labels.dtype == torch.int32
    assert set(map(tuple, prompts.labels.tolist())) == {(2, 3), (1, -1)}


def test_a_tight_box_names_the_first_and_last_pixel() -> None:
    np.testing.assert_array_equal(tight_box(SQUARE), [[6, 4], [12, 8]])
    rng = np.random.default_rng(0)
    for scale in (1, 30):  # 6 px in 256, whatever the size of the picture
        mask = np.kron(SQUARE, np.ones((scale, scale), np.bool_))
        off = np.stack([jittered_box(rng, mask) for _ in range(50)]) - tight_box(mask)
        assert 0 < np.abs(off).max() <= 6 / 256 * len(mask)


def test_corrections_point_at_what_is_wrong() -> None:
    batch = tiny_batches()[0]
    prompts = first_prompts(batch)
    logits = torch.full_like(batch.soft, -5.0)
    told = corrected(prompts, logits, batch.hard, torch.Generator().manual_seed(0))
    # An empty answer misses the whole target, so each correction is a foreground point in it.
    assert (told.labels[:, 0] == 1).all()
    x, y = (told.coords[:, 0] / 2).long().T
    assert batch.hard[torch.arange(len(x)), y, x].all()
    assert torch.equal(told.labels[:, 1:], prompts.labels)
    full = corrected(prompts, -logits, batch.hard, torch.Generator().manual_seed(0))
    covers_all = batch.hard.flatten(1).all(1)
    assert (full.labels[~covers_all, 0] == 0).all()


def test_losses_are_least_at_the_target() -> None:
    soft = torch.zeros(1, 8, 8)
    soft[:, 2:6, 2:6] = 1
    right, wrong = (soft * 20 - 10)[:, None], (10 - soft * 20)[:, None]
    assert float(mask_loss(right, soft)) < 0.01
    assert float(mask_loss(wrong, soft)) > 20
    losses = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    assert 1.0 < float(best_of_three(losses)) < 1.1
    hard = torch.nn.functional.interpolate(soft[:, None], scale_factor=2)[:, 0] > 0.5
    assert float(real_iou(right, hard)) > 0.9
    assert float(real_iou(wrong, hard)) < 0.1


@pytest.mark.parametrize("muon", [False, True])
def test_a_tiny_model_learns_a_few_targets(muon: bool) -> None:
    batch = tiny_batches()[1]
    sam, guide = build(TINY), Guide(TINY.decoder_dim)
    both = torch.nn.ModuleDict({"sam": sam, "guide": guide})
    optimisers = Optimisers(both, 4e-3, 0.0, muon=muon)
    plan, generator = Plan(corrections=(0.5,)), torch.Generator().manual_seed(0)
    history = []
    for _ in range(40):
        history.append(step_backward(sam, guide, batch, plan, generator, 0.3))
        optimisers.step(1.0)
    early = sum(means["mask"] for means in history[:5]) / 5
    late = sum(means["mask"] for means in history[-5:]) / 5
    assert late < 0.7 * early
    assert history[-1]["guide"] < history[0]["guide"]


def test_chunks_of_prompts_do_not_change_the_gradient() -> None:
    batch = tiny_batches()[2]
    gradients = []
    for chunk in (3, 64):
        sam, guide = build(TINY), Guide(TINY.decoder_dim)
        torch.manual_seed(1)
        torch.nn.init.normal_(guide.project.weight, std=0.1)
        torch.nn.init.zeros_(guide.project.bias)  # type: ignore[arg-type]
        plan = Plan(corrections=(), chunk=chunk)
        step_backward(sam, guide, batch, plan, torch.Generator(), 0.3)
        gradients.append({name: p.grad.clone() for name, p in sam.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(name.startswith("image_encoder.blocks.0.") for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [TINY, SAM_DEMO])
def test_the_decoder_of_the_training_is_the_model_s(shape: Shape) -> None:
    sam, generator = build(shape), torch.Generator().manual_seed(4)
    grid = shape.image_size // 16
    images = torch.randn(2, shape.decoder_dim, grid, grid, generator=generator)
    rows = torch.tensor([0, 1, 1])
    coords = torch.rand(3, 3, 2, generator=generator) * shape.image_size
    sparse = sam.prompt_encoder.embed_points(coords, torch.tensor([[1, 0, -1], [2, 3, 1], [1, 1, -1]]))
    place = sam.prompt_encoder.dense_pe()
    results = []
    for masks, ious in (
        sam.mask_decoder(images[rows], place, sparse),
        decode_tokens(sam.mask_decoder, images, rows, place, sparse),
    ):
        sam.zero_grad()
        torch.autograd.backward(masks.square().mean() + ious.sum(), retain_graph=True)
        gradients = {n: p.grad.clone() for n, p in sam.mask_decoder.named_parameters() if p.grad is not None}
        results.append((masks, ious, gradients))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_clicks_are_innermost() -> None:
    point, depth = innermost(SQUARE)
    assert point.tolist()[1] == 6
    assert depth == pytest.approx(3, abs=0.5)
    assert next_click(np.zeros_like(SQUARE), SQUARE)[1] == 1
    assert next_click(np.ones_like(SQUARE), SQUARE)[1] == 0
    assert next_click(SQUARE, SQUARE)[1] == 1


def test_scores_are_ious_of_every_object() -> None:
    drawn = scene(2, "held_out", TINY.image_size)
    targets = score(build(TINY).eval(), [drawn])
    assert [t.family for t in targets] == list(drawn.families)
    assert all(0 <= value <= 1 for value in mean_ious(targets).values())
    for target in targets:
        assert target.iou["click_best_iou"] >= target.iou["click_best_score"]


@pytest.mark.parametrize("least", [-10.0, 10.0])
def test_everything_may_be_nothing(least: float) -> None:
    drawn = scene(1, size=TINY.image_size)
    found = everything(build(TINY).eval(), drawn, 4, score=least, stability=0.0, overlap=0.7)
    assert found.shape[1:] == (64, 64)
    assert len(found) == 0 or least < 0


def test_suppression_keeps_the_best_of_those_that_overlap() -> None:
    masks = torch.zeros(3, 10)
    masks[0, :6], masks[1, :5], masks[2, 6:] = 1, 1, 1
    assert suppress(masks, 0.5) == [0, 2]
    drawn = scene(1, size=64)
    found = torch.from_numpy(drawn.masks)
    np.testing.assert_allclose(best_ious(found, drawn), 1.0)
    np.testing.assert_allclose(best_ious(found[:0], drawn), 0.0)


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [rate(step, 1000, warm_up=100, decay_share=0.5) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[100:500] == [1.0] * 400
    assert all(a > b for a, b in itertools.pairwise(rates[501:]))
    assert rates[-1] < 1e-3
    # While the rate is level, more steps change nothing.
    assert rates[:500] == [rate(step, 2000, warm_up=100, decay_share=0.5) for step in range(500)]


def test_the_running_mean_follows() -> None:
    layer = torch.nn.Linear(2, 2)
    mean = RunningMean(layer, 0.9)
    torch.nn.init.constant_(layer.weight, 5.0)
    for step in range(200):
        mean.update(layer, step)
    torch.testing.assert_close(mean.values["weight"], layer.weight.detach())


def test_cosine_filters_are_independent() -> None:
    filters = cosine_filters(48).flatten(1)
    assert int(torch.linalg.matrix_rank(filters)) == 48


def test_the_network_fits_what_the_project_carries() -> None:
    sam = build(SAM_DEMO)
    assert sum(value.numel() * 2 for value in sam.state_dict().values()) < LARGEST_BYTES
    assert SAM_DEMO.image_size // 16 % 7, "windows are to be padded"
    assert 0 in SAM_DEMO.window_sizes


def test_grouping_is_by_the_nearest_mean_and_counts_objects_alike() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 0, 0] = 2  # number 1 shows nothing
    apart = torch.where(labels[:, None] == 2, 5.0, 0.0)
    assert grouping_loss(apart, labels) < 1e-6
    assert grouping_loss(torch.zeros(1, 1, 4, 4), labels) == pytest.approx(np.log(2), rel=1e-6)  # a coin's toss
    wrong = apart.clone()
    wrong[0, 0, 3, 3] = 5.0
    # One of fifteen cells lies with the other object: d = (5 - 1/3)^2 from its own mean, 0 from the other's.
    lost = (25 * (14 / 15) ** 2 + np.log1p(np.exp(-25 * (14 / 15) ** 2))) / 15
    assert grouping_loss(wrong, labels) == pytest.approx(lost / 2, rel=1e-3)


def test_an_encoder_is_trained_alone_and_a_run_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SAM_DEMO", TINY)
    options = ["--scenes", "1", "--targets", "1", "--workers", "0", "--eval-scenes", "1", "--eval-every", "0"]
    options += ["--precision", "fp32", "--steps", "3", "--warm-up", "1"]
    train.run(train.parse(["--out", str(tmp_path / "first"), "--encoder-only", *options]))
    state = torch.load(tmp_path / "first" / train.CHECKPOINT, weights_only=True)
    before = {f"sam.{name}": value for name, value in build(TINY, 1).state_dict().items()}
    moved = {name for name, value in before.items() if not torch.equal(value, state["model"][name])}
    assert any(name.startswith("sam.image_encoder.blocks") for name in moved)
    assert not any(name.startswith(("sam.mask_decoder", "sam.prompt_encoder")) for name in moved)

    began: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(train, "loop", lambda trainer, _: began.update(trainer.both.state_dict()))
    train.run(
        train.parse(["--out", str(tmp_path / "next"), "--start", str(tmp_path / "first" / train.CHECKPOINT), *options])
    )
    assert began.keys() == state["model"].keys()
    assert all(torch.equal(value, state["model"][name]) for name, value in began.items())


def test_a_run_begins_with_weights_of_another_input_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--scenes", "1", "--targets", "1", "--workers", "0", "--precision", "fp32", "--steps", "1"]
    monkeypatch.setattr(train, "SAM_DEMO", TINY)
    small = train.Trainer(train.parse(["--out", str(tmp_path), *options]), torch.device("cpu"))
    place, table = "image_encoder.pos_embed", "image_encoder.blocks.1.attn.rel_pos_h"
    state = small.sam.state_dict()
    # What rises evenly is known between the places where it is stored.
    state[place].copy_(torch.arange(4.0)[None, :, None, None].expand_as(state[place]))
    state[table].copy_(torch.arange(7.0)[:, None].expand_as(state[table]))
    small.save()

    monkeypatch.setattr(train, "SAM_DEMO", replace(TINY, image_size=128))
    large = train.Trainer(train.parse(["--out", str(tmp_path / "large"), *options]), torch.device("cpu"))
    large.start_from(tmp_path / train.CHECKPOINT)
    taken = large.sam.state_dict()
    assert taken[place].shape == (1, 8, 8, TINY.embed_dim)
    torch.testing.assert_close(taken[place][0, 3:5, 3, 5], torch.tensor([1.25, 1.75]), rtol=0, atol=0.05)
    assert taken[table].shape == (15, 16)
    assert float(taken[table][7, 0]) == pytest.approx(3.0)  # no distance is still no distance
    assert all(torch.equal(value, taken[name]) for name, value in state.items() if value.shape == taken[name].shape)
    assert torch.equal(large.mean.values[place], taken[place])


def test_a_run_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SAM_DEMO", TINY)
    options = ["--scenes", "1", "--targets", "2", "--workers", "0", "--eval-scenes", "1", "--precision", "fp32"]
    options += ["--eval-every", "0", "--warm-up", "1", "--decay-share", "0.1"]

    def settings(folder: str, steps: int) -> train.Settings:
        return train.parse(["--out", str(tmp_path / folder), "--steps", str(steps), *options])

    train.run(settings("whole", 12))
    # Cut short: the steps are planned as in the whole run, but the process ends after five.
    whole = SceneBatches.__getitem__

    def stops(self: SceneBatches, index: int) -> Batch:
        if index == 5:
            raise KeyboardInterrupt
        return whole(self, index)

    monkeypatch.setattr(SceneBatches, "__getitem__", stops)
    short = replace(settings("parts", 12), save_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        train.run(short)
    monkeypatch.setattr(SceneBatches, "__getitem__", whole)
    train.run(short)
    first = torch.load(tmp_path / "whole" / train.CHECKPOINT, weights_only=True)
    second = torch.load(tmp_path / "parts" / train.CHECKPOINT, weights_only=True)
    assert first["step"] == second["step"] == 12
    for name, value in first["ema"].items():
        torch.testing.assert_close(value, second["ema"][name])
    assert (tmp_path / "parts" / "log.jsonl").read_text().count('"eval"') == 1


def test_a_packed_model_is_read_like_any_checkpoint(tmp_path: Path) -> None:
    shape = replace(SAM_DEMO, decoder_mlp_dim=64, embed_dim=48, num_heads=2, window_sizes=(7, 0))
    sam = build(shape, seed=3).eval()
    path = tmp_path / "packed.safetensors"
    size = pack(sam.state_dict(), {"name": "sam_demo"}, path)
    assert size == path.stat().st_size
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"name": "sam_demo"}
        assert file.get_tensor("image_encoder.pos_embed").dtype == torch.float16
    read = read_sam(path)
    image = normalise(torch.from_numpy(scene(0, size=shape.image_size).image)[None])
    assert read.image_size == shape.image_size
    torch.testing.assert_close(read.encode(image), sam.encode(image), rtol=0.05, atol=0.05)


def test_packing_refuses_what_fp16_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="beyond fp16"):
        pack({"a": torch.tensor([1e6])}, {}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="more than"):
        pack({"a": torch.zeros(LARGEST_BYTES)}, {}, tmp_path / "x.safetensors")


def test_a_new_run_can_begin_with_packed_weights(tmp_path: Path) -> None:
    packed = Path(train.__file__).parents[2] / "samedge" / "assets" / "sam_demo.safetensors"
    settings = train.parse(["--out", str(tmp_path), "--start", str(packed), "--steps", "1"])
    trainer = train.Trainer(settings, torch.device("cpu"))
    trainer.start_from(packed)
    weights = read_sam(packed).state_dict()
    for have in (trainer.sam.state_dict(), trainer.averaged().state_dict()):
        assert all(torch.equal(have[name], tensor) for name, tensor in weights.items())
    assert trainer.step == 0
