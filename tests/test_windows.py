import pytest
import torch

from lumiere.windows import going_on, grow, in_windows, joined, windows


@pytest.mark.parametrize("frames", [129, 160, 161, 256, 479, 480, 1000])
@pytest.mark.parametrize("length, overlap, multiple", [(128, 32, 4), (16, 4, 1), (16, 0, 4), (32, 27, 4)])
def test_windows_cover_the_clip_and_overlap(frames, length, overlap, multiple):
    parts = windows(frames, length, overlap, multiple)
    assert parts[0].start == 0 and parts[-1].stop == frames
    assert all(part.stop - part.start == length for part in parts)
    assert all(
        a.stop - b.start >= overlap and a.start < b.start for a, b in zip(parts, parts[1:], strict=False)
    )
    assert all(part.start % multiple == 0 for part in parts[:-1])
    fewer = (len(parts) - 2) * ((length - overlap) // multiple * multiple) + length
    assert fewer < frames, "one window less would do"


def test_a_short_clip_is_one_window_and_denoised_as_it_is():
    assert windows(16, 16, 4) == [slice(0, 16)] and windows(12, 16, 4) == [slice(0, 12)]
    clip = torch.randn(1, 4, 12, 2, 2)
    assert in_windows(lambda x: x, clip, windows(12, 16, 4)) is clip
    for overlap in (-1, 13, 16):
        with pytest.raises(ValueError, match="overlap by 0 to 12"):
            windows(40, 16, overlap, 4)


def test_what_windows_agree_on_is_kept_and_differences_fade():
    clip = torch.randn(2, 4, 40, 3, 3)
    parts = windows(40, 16, 4, 4)
    torch.testing.assert_close(in_windows(lambda x: 2 * x, clip, parts), 2 * clip)
    halved = in_windows(lambda x: x[:, :2], clip, parts)  # other channels than the clip
    torch.testing.assert_close(halved, clip[:, :2])
    seen = []

    def numbered(x):
        seen.append(x.shape[2])
        return torch.full_like(x, len(seen))

    result = in_windows(numbered, clip, parts)[0, 0, :, 0, 0]
    assert seen == [16] * len(parts)
    assert result[0] == 1 and result[-1] == len(parts)
    steps = result.diff()
    assert (steps >= 0).all() and steps.max() < 0.5  # without windows that share frames it would jump by 1


@pytest.mark.parametrize(
    "frames, new, before, begun", [(80, 16, 12, 0), (84, 16, 12, 16), (8, 16, 4, 0), (20, 4, 8, 8)]
)
def test_windows_that_grow_add_every_frame_once_and_see_those_before(frames, new, before, begun):
    made = begun
    for part in grow(frames, new, before, begun):
        assert part.start == max(0, made - before) and 0 < part.stop - made <= new
        made = part.stop
    assert made == frames


def test_a_window_is_given_the_clip_so_far_beside_what_is_known():
    clip, known = torch.randn(1, 4, 8, 2, 2), (torch.randn(1, 4, 12, 2, 2), torch.zeros(12, 2, 2).bool())
    known[1][:, 0] = True
    window = slice(4, 12)
    assert going_on(None, window, None) is None
    for whole in (None, known):
        latents, mask = going_on(clip, window, whole)
        assert torch.equal(latents[:, :, :4], clip[:, :, 4:]) and mask[:4].all()
        assert mask.shape == (8, 2, 2) and not mask[4:, 1].any()
    assert mask[4:, 0].all() and torch.equal(latents[:, :, 4:], known[0][:, :, 8:])
    assert torch.equal(known[1], torch.tensor([True, False])[None, :, None].expand(12, 2, 2)), "was changed"
    longer = joined(clip, latents, window)
    assert torch.equal(longer[:, :, :8], clip) and longer.shape[2] == 12
    latents, mask = going_on(clip, window, known, again=3)
    assert torch.equal(latents[:, :, :1], clip[:, :, 4:5]) and mask[0].all()
    assert torch.equal(latents[:, :, 1:], known[0][:, :, 5:]) and mask[1:, 0].all() and not mask[1:, 1].any()
    made = (torch.arange(8) > 0).float()[:, None, None].expand(1, 2, 8, 2, 2)
    longer = joined(torch.zeros(1, 2, 8, 2, 2), made, window, again=3)
    assert torch.equal(longer[0, 0, :, 0, 0], torch.tensor([0] * 5 + [0.25, 0.5, 0.75] + [1.0] * 4))
    for wrong in ((0, 4), (4, -1)):
        with pytest.raises(ValueError, match="grow by 1 frame or more"):
            grow(80, *wrong)
