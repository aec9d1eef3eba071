"""Prompts through a base pipeline, from many threads and of every length."""

import copy
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from lumiere.loading.components import load_base
from lumiere.loading.text_encoder import CHUNKS, TextEncoder, load_embedding
from tests.bases import TOKENS, save_base


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
    prompts = ["ball", "a much longer prompt than one chunk", "x y z"]
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


def encoded(base, prompt: str, **options) -> tuple:
    """States and pooled output of one prompt by diffusers."""
    options |= {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    states, _, *pooled = base.encode_prompt(prompt, device=torch.device("cpu"), **options)
    return states, *pooled[:1]


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_longer_prompts_have_more_chunks(encoders, family):
    encode, letters = encoders[family], "a b c d e f g h i j k l m n o p q r s t".split()
    text = encode([" ".join(letters), "dull"], 64, 64)
    chunks = [" ".join(letters[: TOKENS - 2]), " ".join(letters[TOKENS - 2 :]), "dull", ""]
    states = [encoded(encode.base, chunk)[0] for chunk in chunks]
    expected = torch.cat([torch.cat(pair, dim=1) for pair in (states[:2], states[2:])])
    torch.testing.assert_close(text.states, expected)
    if family == "xl":
        pooled = [encoded(encode.base, prompt)[1] for prompt in (chunks[0], "dull")]
        torch.testing.assert_close(text.added["text_embeds"], torch.cat(pooled))
    most = encode(["a " * 500], 64, 64)
    assert most.states.shape[1] == CHUNKS * TOKENS and encode.unknown_words("a " * 112 + "b") == ["b"]
    one = encode([" ".join(letters), "(dull:2)"], 64, 64, plain=True).states
    torch.testing.assert_close(one[0], encoded(encode.base, " ".join(letters))[0][0])
    torch.testing.assert_close(one[1], encoded(encode.base, "(dull:2)")[0][0])


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_weights_move_states_from_those_of_an_empty_prompt(encoders, family):
    encode = encoders[family]
    text = encode(["a (red:1.5) (ball:0.5)"], 64, 64)
    states, *pooled = encoded(encode.base, "a red ball")
    empty, *_ = encoded(encode.base, "")
    weights = torch.ones(TOKENS)
    weights[2:5], weights[5:9] = 1.5, 0.5  # one token per letter after the start token and "a"
    torch.testing.assert_close(text.states, empty + weights[None, :, None] * (states - empty))
    if family == "xl":
        torch.testing.assert_close(text.added["text_embeds"], pooled[0])
    plain = encode(["a red ball"], 64, 64).states
    assert torch.equal(encode([r"a (red:1.0) ball"], 64, 64).states, plain)


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_a_text_encoder_with_fewer_layers(encoders, skip):
    encode = encoders["sd"]
    shorter = copy.deepcopy(encode.base.text_encoder)
    del shorter.encoder.layers[-skip:]
    other = copy.copy(encode.base)
    other.text_encoder = shorter
    expected = torch.cat([encoded(other, prompt)[0] for prompt in ("dull", "a ball")])
    found = encode(["dull", "a ball"], 64, 64, clip_skip=skip).states
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, encode(["dull", "a ball"], 64, 64).states, atol=0.1)


def test_clip_skip_of_xl_is_that_of_diffusers(encoders):
    encode = encoders["xl"]
    found = encode(["a ball"], 64, 64, clip_skip=1)
    states, pooled = encoded(encode.base, "a ball", clip_skip=1)
    torch.testing.assert_close(found.states, states)
    torch.testing.assert_close(found.added["text_embeds"], pooled)
    assert (encoders["sd"].max_clip_skip, encode.max_clip_skip) == (2, 1)


def vectors(family: str, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A file of this many random vectors, for diffusers or XL."""
    generator = torch.Generator().manual_seed(seed)
    widths = {"<fox>": 16} if family == "sd" else {"clip_l": 16, "clip_g": 24}
    return {key: torch.randn(count, width, generator=generator) for key, width in widths.items()}


@pytest.fixture
def base(tmp_path):
    """Loads a base of a family, which a test may change."""
    return lambda family: load_base(save_base(tmp_path / family, family), torch.float32)


@pytest.mark.parametrize("family, words", [("sd", "a <fox> bc"), ("xl", "a Fox bc")])
@pytest.mark.parametrize("count", [1, 3])
def test_vectors_stand_for_a_token(base, tmp_path, family, words, count):
    loaded, file = base(family), tmp_path / "Fox.safetensors"
    encoder = loaded.text_encoder_2.text_model if family == "xl" else loaded.text_encoder
    encoder.eos_token_id = 2  # as in the published configs of XL
    save_file(vectors(family, count), file)
    load_embedding(loaded, str(file))
    seen, ids = [], []
    encode, embedding = TextEncoder(loaded), loaded.text_encoder.get_input_embeddings()
    embedding.register_forward_hook(lambda module, args, output: seen.append(output))
    loaded.components["text_encoder_2" if family == "xl" else "text_encoder"].register_forward_pre_hook(
        lambda module, args: ids.append(args[0])
    )
    text = encode([words], 64, 64)
    expected = next(iter(vectors(family, count).values()))
    assert torch.equal(seen[0][0, 2 : 2 + count], expected) and encode.unknown_words(words) == []
    if family == "xl":  # pooled at the end of the prompt
        assert ids[0][0, 4 + count] == loaded.tokenizer_2.eos_token_id
        state = encoder(ids[0]).last_hidden_state[0, 4 + count]
        pooled = loaded.text_encoder_2.text_projection(state)
        torch.testing.assert_close(text.added["text_embeds"][0], pooled)


def test_a_token_of_a_file_can_be_renamed(base, tmp_path):
    loaded = base("sd")
    for key, name in (("emb_params", "owl"), ("<fox>", "fox")):
        save_file({key: vectors("sd", 1)["<fox>"]}, tmp_path / f"{name}.safetensors")
    load_embedding(loaded, str(tmp_path / "owl.safetensors"))
    load_embedding(loaded, str(tmp_path / "fox.safetensors"), "<cub>")
    assert set(loaded.tokenizer.added_tokens_encoder) >= {"owl", "<cub>"}
    assert "<fox>" not in loaded.tokenizer.get_vocab()


WRONG = [
    ("sd", {"a.lora_down.weight": (2, 4), "a.lora_up.weight": (4, 2)}, "is a LoRA; it is not supported"),
    ("sd", {"down_blocks.0.motion_modules.0.proj_in.weight": (4, 4)}, "is a motion adapter of AnimateDiff"),
    ("sd", {"model.diffusion_model.out.2.bias": (4,), "a": (4,)}, "is a whole checkpoint of a model"),
    ("sd", {"control_model.a": (4,), "b": (4,)}, "is a ControlNet"),
    ("sd", {"image_proj.a": (4,), "ip_adapter.b": (4,)}, "is an IP-Adapter"),
    ("sd", {"decoder.conv_in.weight": (4,), "encoder.conv_in.weight": (4,)}, "is an autoencoder"),
    ("sd", {"a": (1, 16), "b": (1, 16)}, "is of no known kind, with 2 tensors"),
    ("sd", {}, "is of no known kind, with 0 tensors"),
    ("sd", {"<fox>": (1, 24)}, "is for another family: its vectors are 1 x 24, where the text_encoder takes"),
    ("sd", {"<fox>": (1, 2, 16)}, "its vectors are 1 x 2 x 16"),
    ("sd", {"<fox>": (15, 16)}, "must have 1 to 14 vectors, as many for each text encoder: received 15"),
    (
        "sd",
        {"clip_l": (1, 16), "clip_g": (1, 24)},
        "is for Stable Diffusion XL: this base is Stable Diffusion 1",
    ),
    ("xl", {"<fox>": (1, 16)}, "is for Stable Diffusion 1.x or 2.x: this base is Stable Diffusion XL"),
    ("xl", {"clip_l": (1, 16), "clip_g": (2, 24)}, "as many for each text encoder: received 1 and 2"),
    ("sd", {"a": (1, 16)}, "the token a of the embedding .* is in the vocabulary"),
    ("sd", {"a fox": (1, 16)}, "must be a word without spaces and any of"),
]


@pytest.mark.parametrize("family, shapes, words", WRONG)
def test_files_of_another_kind_are_refused_by_name(encoders, tmp_path, family, shapes, words):
    file, base = tmp_path / "wrong.safetensors", encoders[family].base
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, file)
    before = len(base.tokenizer)
    with pytest.raises(ValueError, match=words) as refused:
        load_embedding(base, str(file))
    assert str(file) in str(refused.value) and len(base.tokenizer) == before


def test_unreadable_embeddings_are_refused_by_name(encoders, tmp_path):
    base = encoders["sd"].base
    (tmp_path / "damaged.safetensors").write_bytes(b"not tensors")
    torch.save({"string_to_param": {"*": torch.zeros(1, 16)}}, tmp_path / "old.pt")
    save_file({"<fox>": torch.full((1, 16), torch.nan)}, tmp_path / "nan.safetensors")
    for name, words in (
        ("damaged.safetensors", "it is damaged, or no safetensors file"),
        ("old.pt", "from .safetensors only, as others can run code"),
        ("nan.safetensors", "holds values that are not numbers"),
        ("absent.safetensors", "cannot find the embedding"),
    ):
        with pytest.raises((OSError, ValueError), match=words) as refused:
            load_embedding(base, str(tmp_path / name))
        assert name in str(refused.value)


def test_tokens_are_new_words(base, tmp_path):
    loaded, file = base("sd"), tmp_path / "fox.safetensors"
    save_file(vectors("sd", 2), file)
    load_embedding(loaded, str(file))
    for token in ("<Fox>", "<fox>_1", "", "(fox)", "0:fox", "a|b"):
        with pytest.raises(ValueError, match="fox.safetensors"):
            load_embedding(loaded, str(file), token)


def test_truncated_prompts_are_not_logged(encoders, caplog):
    with caplog.at_level(logging.DEBUG):
        encoders["xl"](["secret " * 50], 64, 64)
    assert "secret" not in caplog.text
