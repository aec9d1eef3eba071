"""Folders of latents: what is drawn from them, and what is refused."""

import pickle

import numpy as np
import pytest
import torch

from lumiere.training.latent_dataset import LatentClips, read_captions, write_captions
from tests.clips import drawing

CLIPS, FRAMES = 5, 10


@pytest.fixture
def folder(tmp_path):
    """Every number tells its clip and frame: latents 100 n + t, subject 10 n + t, texts "clip n ..."."""
    n, t = np.arange(CLIPS)[:, None], np.arange(FRAMES)[None]
    latents = np.broadcast_to((100 * n + t)[:, :, None, None, None], (CLIPS, FRAMES, 4, 2, 3))
    weights = np.broadcast_to((10 * n + t)[:, :, None, None], (CLIPS, FRAMES, 2, 3))
    np.save(tmp_path / "latents.npy", latents.astype(np.float16))
    np.save(tmp_path / "weights.npy", weights.astype(np.uint8))
    write_captions(tmp_path, [[f"clip {i}", f"clip {i} in other words"] for i in range(CLIPS)])
    return tmp_path


def draw(folder, step=0, clips=None, batch=4, frames=4, **options):
    clips = range(batch) if clips is None else clips
    return LatentClips(folder).draw(step, clips, drawing(batch, frames, **options))


def test_another_process_is_told_the_folder_and_not_sent_its_clips(folder):
    np.save(folder / "latents.npy", np.repeat(np.load(folder / "latents.npy"), 100, axis=3))
    (folder / "weights.npy").unlink()
    clips = LatentClips(folder)
    sent = pickle.dumps(clips)
    assert len(sent) < 1000 < clips.latents.nbytes
    ours, theirs = (c.draw(3, range(2), drawing(2, 4)) for c in (clips, pickle.loads(sent)))
    assert torch.equal(ours.latents, theirs.latents) and ours.texts == theirs.texts


def test_batch_holds_windows_with_the_subject_and_text_of_their_clip(folder):
    starts = set()
    for step in range(20):
        batch = draw(folder, step)
        assert batch.latents.shape == batch.noise.shape == (4, 4, 4, 2, 3)
        assert batch.subject.shape == (4, 1, 4, 2, 3)
        for latents, subject, text in zip(batch.latents, batch.subject, batch.texts, strict=True):
            row, start = divmod(int(latents[0, 0, 0, 0]), 100)
            frames = start + torch.arange(4)
            assert torch.equal(latents, (100 * row + frames)[None, :, None, None].expand(4, 4, 2, 3).float())
            assert torch.allclose(subject[0, :, 0, 0] * 255, (10 * row + frames).float())
            assert text.startswith(f"clip {row}")
            starts.add(start)
    assert starts == set(range(FRAMES - 4 + 1))


def test_all_clips_are_seen_once_before_one_is_seen_again(folder):
    rows = [int(x[0, 0, 0, 0]) // 100 for step in range(10) for x in draw(folder, step, batch=3).latents]
    epochs = [rows[i : i + CLIPS] for i in range(0, len(rows), CLIPS)]
    assert all(sorted(epoch) == list(range(CLIPS)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_processes_may_divide_a_batch_as_they_like(folder):
    whole = draw(folder, step=7, batch=6, caption_dropout=0.5)
    for parts in ([range(3), range(3, 6)], [range(0, 6, 2), range(1, 6, 2)], [[5], [0, 1, 2, 3, 4]]):
        for clips in parts:
            part = draw(folder, step=7, clips=clips, batch=6, caption_dropout=0.5)
            for name in ("latents", "subject", "noise", "times"):
                assert torch.equal(getattr(part, name), getattr(whole, name)[list(clips)])
            assert part.texts == [whole.texts[clip] for clip in clips]


def test_steps_and_seeds_have_draws_of_their_own(folder):
    noises = [draw(folder, step, seed=seed).noise for step in range(3) for seed in range(2)]
    assert len({noise.numpy().tobytes() for noise in noises}) == 6
    assert torch.equal(noises[0], draw(folder, 0, seed=0).noise)


def test_noise_is_unit_and_independent_between_frames(folder):
    noise = torch.cat([draw(folder, step, frames=10).noise for step in range(60)])  # b c t h w
    rows = noise.movedim(2, 0).flatten(1)  # t n
    assert torch.allclose(torch.cov(rows), torch.eye(10), atol=0.06)


def test_times_are_stratified_over_the_whole_batch_and_shuffled(folder):
    orders = set()
    for step in range(10):
        strata = (draw(folder, step, batch=8).times * 8).floor().int().tolist()
        assert sorted(strata) == list(range(8))
        orders.add(tuple(strata))
    assert len(orders) > 5


def test_all_texts_are_drawn_and_some_left_empty(folder):
    texts = [text for step in range(200) for text in draw(folder, step, caption_dropout=0.25).texts]
    assert set(texts) == {""} | {f"clip {i}{end}" for i in range(CLIPS) for end in ("", " in other words")}
    assert 0.19 < texts.count("") / len(texts) < 0.31


def test_without_weights_nothing_is_a_subject(folder):
    (folder / "weights.npy").unlink()
    assert not draw(folder).subject.any()


def test_captions_come_back_as_they_were(tmp_path):
    texts = [["a “red” ball\u2028on a line", "ein roter Ball"], ["été"]]
    write_captions(tmp_path, texts)
    assert read_captions(tmp_path) == texts
    assert not list(tmp_path.glob("*.part"))


def test_one_text_per_clip_is_enough(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"text": "a ball", "source": 3}\n')
    assert read_captions(tmp_path) == [["a ball"]]


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda f: (f / "latents.npy").unlink(), "There is no latents.npy in"),
        (lambda f: cut(f / "latents.npy"), "latents.npy is not an array of numpy, or is cut off"),
        (lambda f: (f / "latents.npy").write_bytes(b""), "latents.npy is not an array of numpy"),
        (lambda f: np.save(f / "latents.npy", np.array([{}])), "latents.npy is not an array of numpy"),
        (lambda f: np.save(f / "latents.npy", np.zeros((5, 10, 4, 2), np.float16)), "float16 with 4 axes"),
        (lambda f: np.save(f / "latents.npy", np.zeros((5, 10, 4, 2, 3), np.int64)), "int64 with 5 axes"),
        (
            lambda f: np.save(f / "weights.npy", np.zeros((5, 9, 2, 3), np.uint8)),
            "5 x 10 x 2 x 3; it is",
        ),
        (lambda f: np.save(f / "weights.npy", np.zeros((5, 10, 2, 3), np.float32)), "should be uint8"),
        (lambda f: (f / "captions.jsonl").unlink(), "There is no captions.jsonl in"),
        (lambda f: (f / "captions.jsonl").write_bytes(b"\xff\xfe\n"), "captions.jsonl should be UTF-8"),
        (lambda f: write_captions(f, [["a"]] * 4), "5 clips and captions for 4"),
        (lambda f: (f / "captions.jsonl").write_text('{"text": "a"}\n{"te'), "Line 2 of .* should be like"),
        (lambda f: (f / "captions.jsonl").write_text('{"text": 5}\n'), "Line 1 of .* should be like"),
        (lambda f: (f / "captions.jsonl").write_text('["a"]\n'), "Line 1 of .* should be like"),
    ],
)
def test_broken_folders_are_refused_in_words(folder, spoil, words):
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        LatentClips(folder)


def test_empty_folder_of_clips_is_refused(folder):
    np.save(folder / "latents.npy", np.zeros((0, 10, 4, 2, 3), np.float16))
    with pytest.raises(ValueError, match="holds no clips"):
        LatentClips(folder)


def test_stills_are_trained_on_at_any_stride(folder):
    for name in ("latents", "weights"):
        np.save(folder / f"{name}.npy", np.load(folder / f"{name}.npy")[:, :1])
    assert draw(folder, frames=1, stride=2).latents.shape == (4, 4, 1, 2, 3)


def test_windows_longer_than_the_clips_are_refused(folder):
    with pytest.raises(ValueError, match="have 10 frames; training on 12"):
        draw(folder, frames=12)


def test_clips_from_their_start_give_their_first_frame(folder):
    starts = {(int(x[0, 0, 0, 0]) % 100) for s in range(5) for x in draw(folder, s, from_start=1.0).latents}
    assert starts == {0}
    given = draw(folder, from_start=1.0, cond_prob=1.0).cond_mask
    assert given[:, 0].all() and not given[:, 1:].any()
    assert not draw(folder, from_start=1.0, cond_prob=0.0).cond_mask.any()
    mixed = [draw(folder, s, batch=8, from_start=0.5).latents[:, 0, 0, 0, 0] % 100 for s in range(20)]
    assert 0.4 < (torch.cat(mixed) == 0).float().mean() < 0.8


def test_given_latents_are_shown_with_noise(folder):
    plain, noisy = draw(folder), draw(folder, cond_noise=0.5)
    assert torch.equal(plain.cond, plain.latents) and torch.equal(noisy.latents, plain.latents)
    deviations = (noisy.cond - noisy.latents).flatten(1).std(1)
    assert (deviations < 0.7).all() and deviations.max() > 0.05
