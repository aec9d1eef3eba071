"""Prompts through a base pipeline, from many threads and of every length."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lumiere.loading.components import load_base
from lumiere.loading.text_encoder import TextEncoder
from tests.bases import save_base


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {
        family: TextEncoder(load_base(save_base(folder / family, family), torch.float32))
        for family in ("sd", "xl")
    }


def equal(one, other) -> bool:
    added = [(one.added or {}).get(name) for name in ("text_embeds", "time_ids")]
    twins = [(other.added or {}).get(name) for name in ("text_embeds", "time_ids")]
    pairs = zip([one.states, *added], [other.states, *twins], strict=True)
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


@pytest.mark.slow
def test_two_thousand_prompts_from_eight_threads(encoders):
    encode = encoders["sd"]
    prompts = ["ball", "a much longer prompt than the positions", "x y z"]
    expected = {prompt: encode([prompt], 64, 64) for prompt in prompts}
    with ThreadPoolExecutor(8) as threads:
        asked = [(prompts[n % 3], threads.submit(encode, [prompts[n % 3]], 64, 64)) for n in range(2000)]
        words = [threads.submit(encode.unknown_words, prompts[1]) for _ in range(50)]
        wrong = [prompt for prompt, each in asked if not equal(each.result(), expected[prompt])]
        assert wrong == [] and len({tuple(each.result()) for each in words}) == 1


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_embeddings_are_those_of_encode_prompt(encoders, family):
    encode = encoders[family]
    text = encode(["dull", "a ball"], 64, 96)
    states, negative, *pooled = encode.base.encode_prompt(
        "a ball",
        device=torch.device("cpu"),
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt="dull",
    )
    torch.testing.assert_close(text.states, torch.cat([negative, states]))
    assert (text.added is None) == (family == "sd")
    if pooled:
        torch.testing.assert_close(text.added["text_embeds"], torch.cat(pooled[::-1]))
        assert text.added["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]] * 2
        assert not encode(["", "a ball"], 64, 96).states[0].any()


def test_truncated_prompts_are_not_logged(encoders, caplog):
    with caplog.at_level(logging.DEBUG):
        encoders["xl"](["secret " * 50], 64, 64)
    assert "secret" not in caplog.text
