"""The language: every caption says what its scene shows, and the tokenizer knows every word of it."""

import numpy as np
import pytest

from lumiere.paperworld.training.text_encoder import LENGTH, new_tokenizer, tokenize
from lumiere.paperworld.world.captions import (
    ATTRIBUTES,
    COLOUR_WORDS,
    SUBJECT_WORDS,
    canonical,
    caption_with_truth,
    known_words,
    paraphrase,
)
from lumiere.paperworld.world.scene import HELD_OUT, MOTIONS, choose_held_out, sample_scene


def scenes(count, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def test_canonical_caption_is_the_plain_sentence():
    scene = scenes(1)[0]
    caption = canonical(scene)
    assert COLOUR_WORDS[scene.colour][0] in caption.split()
    assert SUBJECT_WORDS[scene.subject][0] in caption.split()
    assert caption.startswith("an " if scene.colour == "orange" else "a ")


def test_a_colour_with_a_vowel_gets_its_article():
    texts = [paraphrase(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes(300))]
    assert any(" an " in f" {text}" for text in texts)
    for text in texts:
        words = text.replace(",", "").split()
        for article, following in zip(words, words[1:], strict=False):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou"), text


def test_captions_have_no_loose_spaces_and_fit_the_encoder():
    tokenizer = new_tokenizer()
    rng = np.random.default_rng(1)
    texts = [caption_with_truth(scene, rng)[0] for scene in scenes(500)]
    assert all(text == " ".join(text.split()) for text in texts)
    ids = tokenize(tokenizer, texts)
    assert ids.shape == (500, LENGTH)
    assert (ids[:, -1] == tokenizer.eos_token_id).all(), "a caption was cut"
    assert not (ids == tokenizer.unk_token_id).any(), "a caption has a word the tokenizer does not know"


def test_truth_is_silent_about_what_the_caption_leaves_out():
    rng = np.random.default_rng(2)
    silent = {name: 0 for name in ATTRIBUTES}
    for scene in scenes(500):
        text, truth = caption_with_truth(scene, rng)
        for name, value in truth.items():
            silent[name] += value is None
            assert value in (None, getattr(scene, name))
        if truth["colour"]:
            assert any(word in text.split() for word in COLOUR_WORDS[scene.colour])
        else:
            assert not any(word in text.split() for word in COLOUR_WORDS[scene.colour])
    assert silent["subject"] == 0
    assert all(silent[name] > 10 for name in ("colour", "background", "motion", "speed"))


def test_unknown_words_become_one_token_and_known_ones_do_not():
    tokenizer = new_tokenizer()
    tokens = tokenizer.tokenize("A Red dragon, standing-still over green hills!")
    assert tokens == ["a", "red", "<|unknown|>", "standing", "still", "over", "green", "hills"]
    assert len(known_words()) == len(set(known_words()))


def test_held_out_file_is_the_fixed_tenth():
    assert HELD_OUT == set(choose_held_out())
    assert len(HELD_OUT) == pytest.approx(0.1 * 8 * 8 * 9, rel=0.1)
    assert {motion for _, _, motion in HELD_OUT} == set(MOTIONS)
