"""Scenes of sam_demo: repeatable, honest masks, and two splits that share no shape, no texture and no photograph."""

from __future__ import annotations

import numpy as np
import pytest

from tools.train_sam_demo.families import TRAIN_FAMILIES
from tools.train_sam_demo.families_held_out import HELD_OUT_FAMILIES
from tools.train_sam_demo.letterbox import cut, enlarged, padding
from tools.train_sam_demo.photographs import FOLDER, HELD_OUT_PHOTOS, TRAIN_PHOTOS, photo
from tools.train_sam_demo.real_photographs import coins
from tools.train_sam_demo.scenes import SMALLEST_SHARE, Split, scene
from tools.train_sam_demo.textures import HELD_OUT_TEXTURES, TRAIN_TEXTURES

SPLITS: tuple[Split, ...] = ("train", "held_out")
SEEDS = range(12)


@pytest.mark.parametrize("split", SPLITS)
def test_a_seed_gives_one_scene(split: Split) -> None:
    first, second = scene(5, split, 128), scene(5, split, 128)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.masks, second.masks)
    assert first.families == second.families
    assert not np.array_equal(first.image, scene(6, split, 128).image)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", SEEDS)
def test_masks_are_disjoint_but_for_parts_of_their_wholes(split: Split, seed: int) -> None:
    drawn = scene(seed, split)
    assert drawn.image.shape == (256, 256, 3)
    assert drawn.image.dtype == np.uint8
    assert len(drawn.masks) == len(drawn.families) == len(drawn.parents) > 0
    wholes = drawn.masks[drawn.parents < 0]
    assert wholes.sum(0).max() <= 1
    for mask, parent in zip(drawn.masks, drawn.parents, strict=True):
        assert mask.mean() >= SMALLEST_SHARE
        if parent >= 0:
            assert drawn.parents[parent] < 0
            assert not (mask & ~drawn.masks[parent]).any()
            assert mask.sum() < drawn.masks[parent].sum()


def test_labels_are_the_finest_partition() -> None:
    drawn = next(s for s in map(scene, range(100)) if (s.parents >= 0).any())
    labels = drawn.labels
    part = int(np.flatnonzero(drawn.parents >= 0)[0])
    assert (labels[drawn.masks[part]] == part + 1).all()
    np.testing.assert_array_equal(labels > 0, drawn.masks.any(0))


def test_splits_share_no_family_texture_or_photograph() -> None:
    assert not TRAIN_FAMILIES.keys() & HELD_OUT_FAMILIES.keys()
    assert not set(TRAIN_FAMILIES.values()) & set(HELD_OUT_FAMILIES.values())
    # One colour is no texture.
    assert TRAIN_TEXTURES.keys() & HELD_OUT_TEXTURES.keys() == {"plain"}
    assert not set(TRAIN_PHOTOS) & set(HELD_OUT_PHOTOS)


@pytest.mark.parametrize("split", SPLITS)
def test_every_family_of_a_split_and_no_other_is_drawn(split: Split) -> None:
    expected = TRAIN_FAMILIES if split == "train" else HELD_OUT_FAMILIES
    drawn = {family for seed in range(60) for family in scene(seed, split, 128).families}
    assert drawn == expected.keys()


def test_a_split_is_more_than_a_seed() -> None:
    assert not np.array_equal(scene(3, "train", 64).masks[0], scene(3, "held_out", 64).masks[0])


@pytest.mark.parametrize("name", [*TRAIN_FAMILIES, *HELD_OUT_FAMILIES])
def test_a_family_draws_near_its_centre(name: str) -> None:
    family = {**TRAIN_FAMILIES, **HELD_OUT_FAMILIES}[name]
    alpha = family(np.random.default_rng(1), 256, np.array([128.0, 128.0]), 50.0)
    y, x = np.nonzero(alpha > 127)
    assert len(y) > 300
    assert np.hypot(x - 128.0, y - 128.0).max() < 110
    assert set(np.unique(alpha)) - {0, 255}, "edges are anti-aliased"


@pytest.mark.parametrize("name", [*TRAIN_TEXTURES, *HELD_OUT_TEXTURES])
def test_a_texture_fills_any_rectangle_with_bytes(name: str) -> None:
    texture = {**TRAIN_TEXTURES, **HELD_OUT_TEXTURES}[name][0]
    for height, width in ((3, 40), (64, 17), (1, 1)):
        paint = texture(np.random.default_rng(2), height, width)
        assert paint.shape == (height, width, 3)
        assert paint.dtype == np.float32
        assert paint.min() >= 0
        assert paint.max() <= 255


def test_photographs_are_there_and_named_in_the_terms() -> None:
    terms = (FOLDER / "README.md").read_text()
    assert {path.stem for path in FOLDER.glob("*.jpg")} == {*TRAIN_PHOTOS, *HELD_OUT_PHOTOS}
    for name in (*TRAIN_PHOTOS, *HELD_OUT_PHOTOS):
        assert photo(name).ndim == 3
        assert f"| {name}.jpg |" in terms
    with pytest.raises(FileNotFoundError):
        photo("mandrill")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_scene_has_no_mask_in_its_padding(seed: int) -> None:
    drawn = scene(seed)
    narrow = cut(drawn, np.random.default_rng(seed))
    assert narrow.image.shape == drawn.image.shape
    outside = padding(narrow.image)
    assert not narrow.masks[:, outside.all(1)].any()
    assert not narrow.masks[:, :, outside.all(0)].any()
    for mask, parent in zip(narrow.masks, narrow.parents, strict=True):
        assert mask.any()
        if parent >= 0:
            assert not (mask & ~narrow.masks[parent]).any()


def test_an_enlarged_scene_is_the_same_scene() -> None:
    drawn = scene(3)
    large = enlarged(drawn, 512)
    assert large.image.shape == (512, 512, 3)
    assert large.families == drawn.families
    np.testing.assert_array_equal(large.masks[:, ::2, ::2], drawn.masks)
    np.testing.assert_array_equal(large.masks[:, 1::2, 1::2], drawn.masks)
    mean = large.image.reshape(256, 2, 256, 2, 3).mean((1, 3))
    assert np.abs(mean - drawn.image).mean() < 4


def test_coins_lie_apart() -> None:
    drawn = coins(256)
    assert len(drawn.masks) == 24
    assert drawn.masks.sum(0).max() == 1
