import numpy as np
import pytest
import torch

from lumiere.model import conditioning


def test_the_modes_give_what_they_are_named_for():
    moving = torch.zeros(4, 6, dtype=torch.bool)
    moving[1:3, 2:5] = True
    given = {
        "first": conditioning.first_frame(8, 4, 6),
        "both": conditioning.first_and_last(8, 4, 6),
        "three": conditioning.first_frames(3, 8, 4, 6),
        "region": conditioning.region(moving, 8),
        "cinemagraph": conditioning.cinemagraph(moving, 8),
    }
    assert all(mask.shape == (8, 4, 6) and mask.dtype == torch.bool for mask in given.values())
    frames = {name: mask.flatten(1).float().mean(1).tolist() for name, mask in given.items()}
    assert frames["first"] == [1] + 7 * [0]
    assert frames["both"] == [1] + 6 * [0] + [1]
    assert frames["three"] == 3 * [1] + 5 * [0]
    assert torch.equal(given["region"], ~moving.expand(8, 4, 6))
    assert frames["cinemagraph"][0] == 1
    assert torch.equal(given["cinemagraph"][1:], given["region"][1:])
    for count in (0, 8):
        with pytest.raises(ValueError, match=f"1 to 7 can be given; received {count}"):
            conditioning.first_frames(count, 8, 4, 6)


def test_a_latent_is_given_only_with_all_of_its_pixels():
    mask = torch.ones(2, 16, 24, dtype=torch.bool)
    mask[1, 9, 17] = False
    cells = conditioning.to_latents(mask, 8)
    assert cells.shape == (2, 2, 3) and cells[0].all()
    assert cells[1].tolist() == [[True, True, True], [True, True, False]]
    assert conditioning.to_latents(torch.ones(1, 56, 56, dtype=torch.bool), 7).all()


def test_channels_show_what_is_given_and_nothing_else():
    clip, mask = torch.randn(2, 4, 3, 5, 5), conditioning.first_frame(3, 5, 5)
    shown = conditioning.channels(clip, mask)
    assert shown.shape == (2, 5, 3, 5, 5)
    torch.testing.assert_close(shown[:, :4, 0], clip[:, :, 0])
    assert shown[:, :4, 1:].abs().max() == 0
    assert torch.equal(shown[:, 4], mask.float().expand(2, 3, 5, 5))
    each = torch.stack([mask, ~mask])
    assert torch.equal(conditioning.channels(clip, each)[1:], conditioning.channels(clip[1:], ~mask))


def test_segments_are_given_the_clip_so_far():
    clip, mask = torch.randn(1, 4, 8, 2, 2), torch.zeros(12, 2, 2, dtype=torch.bool)
    mask[:, 0] = True
    cond, frames = conditioning.Cond(torch.randn(1, 4, 12, 2, 2), mask), slice(4, 12)
    assert conditioning.with_context(None, None, frames) is None
    for whole in (None, cond):
        latents, given = conditioning.with_context(whole, clip, frames)
        assert torch.equal(latents[:, :, :4], clip[:, :, 4:]) and given[:4].all()
        assert given.shape == (8, 2, 2) and not given[4:, 1].any()
    assert given[4:, 0].all() and torch.equal(latents[:, :, 4:], cond.latents[:, :, 8:])
    assert not cond.mask[:, 1].any(), "was changed"
    alone = conditioning.with_context(cond, None, frames)
    assert torch.equal(alone.latents, cond.latents[:, :, 4:]) and torch.equal(alone.mask, mask[4:])


def test_blending_keeps_what_is_given_and_the_rest():
    clean, clip, mask = torch.randn(1, 4, 3, 5, 5), torch.randn(1, 4, 3, 5, 5), torch.rand(3, 5, 5) > 0.5
    blended = conditioning.blend(clean, clip, mask)
    assert torch.equal(blended[..., mask], clip[..., mask])
    assert torch.equal(blended[..., ~mask], clean[..., ~mask])


def test_what_is_given_all_the_time_is_put_back_and_fades_into_the_rest():
    made, own = (np.full((3, 40, 40, 3), level, np.uint8) for level in (200, 100))
    hole = torch.zeros(40, 40, dtype=torch.bool)
    hole[10:30, 10:40] = True
    mixed = conditioning.put_back(made, conditioning.moving_picture(own[0], hole.numpy(), 3))
    assert mixed.dtype == np.uint8 and (mixed[:, ~hole.numpy()] == 100).all()
    assert (mixed[:, 14:26, 14:] == 200).all()
    edge = mixed[1, 20, 9:15, 0].astype(int)
    assert (np.diff(edge) > 0).all() and np.diff(edge).max() <= 25, edge


def test_frames_that_are_given_whole_stay_as_they_were_made():
    made, own = (np.full((8, 16, 16, 3), level, np.uint8) for level in (200, 100))
    for given in (conditioning.images(own[0], own[0], 8), conditioning.continuation(own, 8)):
        assert np.array_equal(conditioning.put_back(made, given), made)


def test_masks_of_training_give_nothing_half_the_time_and_never_everything():
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([conditioning.random_mask(8, 6, 6, generator) for _ in range(600)])
    share = masks.flatten(1).float().mean(1)
    assert 0.43 < (share == 0).float().mean() < 0.57
    assert share.max() < 1
    kinds = {tuple(mask.flatten(1).float().mean(1).gt(0.99).tolist()) for mask in masks}
    assert len(kinds) >= 6  # nothing or a region; first; first and last; two to six first ones
    assert torch.equal(conditioning.random_mask(8, 6, 6, torch.Generator().manual_seed(0)), masks[0])
    assert not conditioning.random_mask(1, 6, 6, generator).any()


def test_masks_of_training_give_beginnings_as_often_as_they_are_asked_to():
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([conditioning.random_mask(8, 6, 6, generator, 1.0, 0.7) for _ in range(600)])
    whole = masks.all((2, 3))
    counts = whole.sum(1)[(whole.cummin(1).values == whole).all(1) & (masks.any((2, 3)) == whole).all(1)]
    assert 0.68 < len(counts) / 600 < 0.84  # a first frame alone is one of the other four modes, too
    assert counts.unique().tolist() == [1, 2, 3, 4]


def test_how_many_frames_a_clip_goes_on_from():
    clip = np.zeros((40, 8, 8, 3), np.uint8)
    for frames, count in ((4, 3), (8, 4), (16, 4), (40, 10), (80, 16), (128, 16)):
        given = conditioning.continuation(clip, frames)
        assert given.mask.all((1, 2)).sum() == count and given.mask.any((1, 2)).sum() == count
    assert conditioning.continuation(clip[:2], 16).mask.all((1, 2)).sum() == 2
