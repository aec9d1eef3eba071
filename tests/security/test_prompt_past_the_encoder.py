"""Row 3. The tiny model's text encoder takes eight chunks of ten words."""

from lumiere.media.video import read_settings
from lumiere.request import Request

KNOWN = " ".join(["red blue green yellow ball star fish rocket over under"] * 8)


def test_a_prompt_longer_than_the_encoder_takes_runs_and_tells_what_was_ignored(stranger):
    prompt = f"{KNOWN} hills sea"
    told = str(stranger.press("note", [prompt]).json()["data"])
    assert "hills" in told and "sea" in told and "rocket" not in told
    outcome, (file, settings) = stranger.generate(prompt=prompt)
    assert outcome == "complete" and settings["prompt"] == prompt
    assert Request.from_json(read_settings(file["path"])).prompt == prompt


def test_what_is_past_the_end_changes_nothing(server, stranger):
    clips = [stranger.generate(prompt=f"{KNOWN} {word}")[1][0]["path"] for word in ("hills", "sea")]
    one, other = (stranger.fetch(path).content for path in clips)
    assert len(one) > 1000 and one[-400:] == other[-400:]  # the pictures; the prompt is at the beginning
