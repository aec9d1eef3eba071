"""Folders of video files: what is found in them, what is left out, what training sees of them."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from lumiere.loading.components import load_model
from lumiere.media.images import fit
from lumiere.media.video import read_clip, write_clip
from lumiere.training.config import Settings
from lumiere.training.latent_dataset import LatentClips
from lumiere.training.trainer import Trainer
from lumiere.training.video_folder import Size, captioned, encode_clips
from tests.clips import drawing

SIZE = Size(4, 64, 64)


def film(frames: int, shade: int) -> np.ndarray:
    ramp = np.linspace(0, 200, 80).astype(np.uint8)
    return np.stack(
        [
            np.broadcast_to(np.roll(ramp, n)[:, None, None] + np.uint8(shade), (80, 96, 3))
            for n in range(frames)
        ]
    )


@pytest.fixture
def folder(tmp_path):
    """Two good clips, one of them deeper; one too short, one broken, one without text; and no clip."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    for name, frames in (("a", 6), ("deep/b", 9), ("short", 3), ("mute", 6)):
        write_clip(folder / f"{name}.mp4", film(frames, frames), 16)
        (folder / f"{name}.txt").write_text(f"a clip called {name}\n")
    (folder / "mute.txt").unlink()
    (folder / "broken.mp4").write_bytes(bytes(1000))
    (folder / "broken.txt").write_text("a broken clip")
    (folder / "notes.txt").write_text("no clip")
    return folder


@pytest.fixture
def vae(tiny_model):
    return load_model(tiny_model, "vae", torch.float32)


def test_clips_are_encoded_once_and_what_cannot_be_is_told_once(folder, vae, tmp_path, monkeypatch):
    told, cache = [], tmp_path / "cache"
    assert encode_clips(folder, cache, vae, SIZE, told.append) == 2
    (words,) = told
    assert words.startswith("3 of 5 clips in") and words.count("\n") == 3
    assert "short.mp4: it has 3 frames, fewer than 4" in words and "mute.mp4: it has no caption" in words
    assert "broken.mp4: cannot read a video from this file" in words
    clips = LatentClips(cache)
    assert [len(clip) for clip in clips.latents] == [6, 9] and clips.size == [8, 8] and clips.frames == 6
    assert clips.texts == [["a clip called a"], ["a clip called deep/b"]]
    frames = torch.from_numpy(fit(read_clip(folder / "a.mp4")[0], 64, 64)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(frames).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(torch.from_numpy(clips.latents[0]).float(), expected, atol=2e-3, rtol=2e-3)
    monkeypatch.setattr(vae, "encode", None)  # what is there is not made again
    assert encode_clips(folder, cache, vae, SIZE, told.append) == 2


def test_a_clip_that_changed_is_encoded_again(folder, vae, tmp_path):
    cache = tmp_path / "cache"
    encode_clips(folder, cache, vae, SIZE, print)
    before = LatentClips(cache).latents[0].copy()
    write_clip(folder / "a.mp4", film(7, 40), 16)
    encode_clips(folder, cache, vae, SIZE, print)
    after = LatentClips(cache).latents[0]
    assert len(after) == 7 and not np.allclose(before, after[:6])


def test_a_clip_that_is_there_but_too_short_for_longer_ones_is_left_out(folder, vae, tmp_path):
    cache, told = tmp_path / "cache", []
    encode_clips(folder, cache, vae, SIZE, told.append)
    assert encode_clips(folder, cache, vae, replace(SIZE, frames=8), told.append) == 1
    assert "a.mp4: it has 6 frames, fewer than 8" in told[1]
    assert LatentClips(cache).frames == 9


def test_lines_of_metadata_end_where_json_lines_do(folder):
    line = json.dumps({"file_name": "a.mp4", "text": "a red\u2028ball\x85"}, ensure_ascii=False)
    (folder / "metadata.jsonl").write_text(f"{line}\r\n", "utf-8", newline="")
    assert [entry.text for entry in captioned(folder)] == ["a red\u2028ball"]


def test_metadata_of_the_datasets_library(folder):
    entries = [
        {"file_name": "deep/b.mp4", "text": " b "},
        {"file_name": "gone.mp4", "text": "c"},
        {"file_name": "a.mp4"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    assert list(captioned(folder)) == [
        ("deep/b.mp4", folder / "deep/b.mp4", "b", ""),
        ("gone.mp4", folder / "gone.mp4", "c", ""),
        ("a.mp4", folder / "a.mp4", "", ""),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"file_name": 3}',
        '{"file_name": "../../etc/passwd", "text": "x"}',
        '{"file_name": "a.mp4", "text": 3}',
        '{"file_name": "a.mp4", "text": "\\ud83d"}',
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_left_out(folder, vae, tmp_path, line):
    (folder / "metadata.jsonl").write_text(f'{{"file_name": "a.mp4", "text": "x"}}\n{line}')
    told = []
    assert encode_clips(folder, tmp_path / "cache", vae, SIZE, told.append) == 1
    assert "1 of 2 clips" in told[0] and "line 2 of metadata.jsonl: a line should be like" in told[0]


def test_metadata_that_is_not_utf_8_is_refused(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.mp4", "text": "é"}', "latin-1")
    with pytest.raises(ValueError, match="metadata.jsonl should be UTF-8 text: byte 33 is not UTF-8"):
        list(captioned(folder))


def test_files_may_be_named_by_their_whole_path_in_a_folder_that_is_not(folder, vae, tmp_path, monkeypatch):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": str(folder / "a.mp4"), "text": "x"}))
    monkeypatch.chdir(folder.parent)
    assert encode_clips(folder.name, tmp_path / "cache", vae, SIZE, print) == 1


def test_a_folder_without_a_usable_clip_is_refused(tmp_path, vae):
    (tmp_path / "x.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="no clip in .* that could be used, of 1 found"):
        encode_clips(tmp_path, tmp_path / "cache", vae, SIZE, print)


def test_training_on_a_folder_of_clips(folder, tiny_model, tmp_path, capsys):
    settings = Settings(
        str(tiny_model),
        str(folder),
        str(tmp_path / "run"),
        frames=4,
        steps=2,
        batch_size=2,
        precision="no",
        stride=2,
    )
    trainer = Trainer(settings, Accelerator(mixed_precision="no", cpu=True))
    trainer.resume()
    assert len(trainer.clips) == 2 and np.isfinite(trainer.advance()["loss"])
    assert "3 of 5 clips" in capsys.readouterr().err


def test_every_second_frame_is_seen_too(folder, vae, tmp_path):
    cache = tmp_path / "cache"
    encode_clips(folder, cache, vae, SIZE, print)
    clips, seen = LatentClips(cache), set()
    for step in range(40):
        batch = clips.draw(step, range(2), drawing(2, 4, stride=3))
        for latents, text in zip(batch.latents, batch.texts, strict=True):
            frames = torch.from_numpy(clips.latents[text == "a clip called deep/b"].astype(np.float32))
            differences = (frames[None] - latents.transpose(0, 1)[:, None]).abs().flatten(2).sum(2)
            places = differences.argmin(1)
            assert (places.diff() == places[1] - places[0]).all()
            seen.add((len(frames), int(places[1] - places[0])))
    assert seen == {(6, 1), (9, 1), (9, 2)}


def usable(folder, vae, tmp_path, **size) -> tuple[list[str], str]:
    """Captions of the clips that can be used, and what is said of the others."""
    told = []
    encode_clips(folder, tmp_path / "cache", vae, replace(SIZE, **size), told.append)
    assert len(told) <= 1
    return [text for (text,) in LatentClips(tmp_path / "cache").texts], "".join(told)


def add(folder, name: str | bytes, text: str | bytes = "a clip", fps: float = 16):
    """Puts a clip with a caption into the folder; names may be bytes."""
    write_clip(folder / "new.mp4", film(6, 9), fps)
    stem = os.fsencode(folder) + b"/" + (name.encode() if isinstance(name, str) else name)
    os.rename(folder / "new.mp4", stem + b".mp4")
    with open(stem + b".txt", "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def test_long_names_are_no_obstacle(folder, vae, tmp_path):
    add(folder, "n" * 226, "a long name")
    assert "a long name" in usable(folder, vae, tmp_path)[0]


def test_names_that_are_not_utf_8_are_no_obstacle(folder, vae, tmp_path):
    add(folder, b"caf\xe9", "a cafe")
    add(folder, b"mute\xe9", "")
    texts, said = usable(folder, vae, tmp_path)
    assert "a cafe" in texts and "mute\\udce9.mp4: it has no caption" in said
    said.encode("utf-8")


def test_a_caption_that_cannot_be_read_is_listed_and_the_others_are_used(folder, vae, tmp_path):
    add(folder, "binary", b"\xff\xd8\xff\xe0\xba")
    add(folder, "taken", "x")
    (folder / "taken.txt").unlink()
    (folder / "taken.txt").mkdir()
    add(folder, "broken-link", "x")
    (folder / "broken-link.txt").unlink()
    (folder / "broken-link.txt").symlink_to(folder / "nowhere")
    texts, said = usable(folder, vae, tmp_path)
    assert texts == ["a clip called a", "a clip called deep/b"]
    for name in ("binary", "taken", "broken-link"):
        assert f"{name}.mp4: its caption cannot be used: " in said
    assert said.startswith("6 of 8 clips")


@pytest.mark.parametrize("listed", [False, True])
def test_symbolic_links_are_followed_as_in_the_cache_of_the_hub(folder, vae, tmp_path, listed):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot" / "clips"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "0a1b").write_bytes((folder / "a.mp4").read_bytes())
    (blobs / "2c3d").write_text("a linked clip")
    (snapshot / "a.mp4").symlink_to(blobs / "0a1b")
    (snapshot / "a.txt").symlink_to(blobs / "2c3d")
    (snapshot / "gone.mp4").symlink_to(blobs / "nothing")
    (snapshot / "gone.txt").symlink_to(blobs / "2c3d")
    if listed:
        (blobs / "4e5f").write_text(
            "\n".join(json.dumps({"file_name": f"{n}.mp4", "text": "a linked clip"}) for n in ("a", "gone"))
        )
        (snapshot / "metadata.jsonl").symlink_to(blobs / "4e5f")
    texts, said = usable(snapshot, vae, tmp_path)
    assert texts == ["a linked clip"] and "gone.mp4: there is no such file" in said


def test_folders_that_are_links_are_followed_but_not_in_circles(folder, vae, tmp_path):
    (tmp_path / "disk").mkdir()
    add(tmp_path / "disk", "far", "a clip on another disk")
    (folder / "other").symlink_to(tmp_path / "disk")
    (folder / "circle").symlink_to(folder)
    assert usable(folder, vae, tmp_path)[0].count("a clip on another disk") == 1


def test_hidden_files_are_no_clips(folder, vae, tmp_path):
    (folder / "._a.mp4").write_bytes(b"\0\5\x16\7 what macOS puts beside files on other disks")
    assert "._a" not in usable(folder, vae, tmp_path)[1]


MARKED = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"]


@pytest.mark.parametrize("encoding", MARKED)
def test_captions_and_metadata_may_have_byte_order_marks(folder, vae, tmp_path, encoding):
    add(folder, "marked", "a café".encode(encoding))
    assert "a café" in usable(folder, vae, tmp_path)[0]
    line = json.dumps({"file_name": "a.mp4", "text": "a café"}, ensure_ascii=False)
    (folder / "metadata.jsonl").write_bytes(f"{line}\r\n\r\n{line}\r\n".encode(encoding))
    assert usable(folder, vae, tmp_path)[0] == ["a café"] * 2


def test_names_in_metadata_may_be_composed_in_another_way(folder, vae, tmp_path):
    add(folder, "cafe\u0301")  # as macOS writes it
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "caf\u00e9.mp4", "text": "x"}))
    assert usable(folder, vae, tmp_path)[0] == ["x"]


def test_clips_of_different_rates_are_told_and_can_be_brought_to_one(folder, vae, tmp_path):
    for fps in (15, 24, 60):
        add(folder, f"at{fps}", "a clip", fps)
    for _ in range(2):  # also when the clips are in the cache
        said = usable(folder, vae, tmp_path)[1]
        assert "clips differ in frames per second (1 at 15, 2 at 16, 1 at 24, 1 at 60)" in said
        assert "--fps 16 brings them to one rate" in said
    texts, said = usable(folder, vae, tmp_path, fps=30)
    assert "clips differ" not in said
    lengths = {len(clip) for clip in LatentClips(tmp_path / "cache").latents}
    assert lengths == {
        12,
        11,
        8,
        17,
        6,
    }  # of 6 frames at 15, 16 and 24 fps, 9 and 3 at 16; 6 at 60 fps are too few


def test_damaged_latents_are_encoded_again(folder, vae, tmp_path):
    usable(folder, vae, tmp_path)
    for file in (tmp_path / "cache" / "latents").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    assert len(usable(folder, vae, tmp_path)[0]) == 2


def test_a_folder_that_does_not_exist_is_said_not_to(tmp_path):
    with pytest.raises(ValueError, match="nowhere is missing: a folder of clips or of latents is needed"):
        LatentClips(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file: a folder of clips or of latents is needed"):
        LatentClips(tmp_path / "file")
