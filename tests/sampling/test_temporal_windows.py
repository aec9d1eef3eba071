import pytest
import torch

from lumiere.sampling.temporal_windows import WINDOW, in_windows, windows, windows_of


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
    assert in_windows(lambda x, _: x, clip, windows(12, 16, 4)) is clip
    for overlap in (-1, 13, 16):
        with pytest.raises(ValueError, match="overlap by 0 to 12"):
            windows(40, 16, overlap, 4)


def test_what_windows_agree_on_is_kept_and_differences_fade():
    clip = torch.randn(2, 4, 40, 3, 3)
    parts = windows(40, 16, 4, 4)
    torch.testing.assert_close(in_windows(lambda x, _: 2 * x, clip, parts), 2 * clip)
    halved = in_windows(lambda x, _: x[:, :2], clip, parts)  # other channels than the clip
    torch.testing.assert_close(halved, clip[:, :2])
    seen = []

    def numbered(x, window):
        seen.append(x.shape[2])
        return torch.full_like(x, len(seen))

    result = in_windows(numbered, clip, parts)[0, 0, :, 0, 0]
    assert seen == [16] * len(parts)
    assert result[0] == 1 and result[-1] == len(parts)
    steps = result.diff()
    assert (steps >= 0).all() and steps.max() < 0.5  # without windows that share frames it would jump by 1


def test_windows_follow_positions():
    assert windows_of(40, 16, None, 4) == windows(40, 16, 4, 4)
    assert windows_of(24, 16, 24, 1) == [slice(0, 24)]  # weights with positions see as much as they can
    assert windows_of(40, 32, 24, 1) == windows(40, 24, 6, 1)
    assert windows_of(WINDOW, None, None, 4) == [slice(0, WINDOW)]
