"""Prompts of Stable Diffusion with public motion weights: embeddings, clip_skip, prompts in time.

Frames are compared with diffusers' own pipelines, on the small models of test_bases.py.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere import __main__ as command
from lumiere import models
from lumiere.loading.components import load_base
from lumiere.loading.registry import Model
from lumiere.loading.styles import Style
from lumiere.model.lumiere import Lumiere
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.sampling.settings import Sampling
from tests.bases import components, save_adapter, save_base
from tests.loading.test_text_encoder import vectors
from tests.test_bases import BAR, POSITIONS, SEEN, difference, frames_of, theirs, theirs_of

pytestmark = pytest.mark.slow

REQUEST = replace(SEEN, guidance=7.5)
SPRING, WINTER = "a tree in spring", "the quick wax"
FRAMES = POSITIONS + 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`sd` and `xl` with their adapters, and two embeddings for each."""
    folder = tmp_path_factory.mktemp("prompts")
    for family in ("sd", "xl"):
        save_base(folder / family, family)
        save_adapter(folder / f"{family}-adapter", components(family)["unet"], positions=POSITIONS)
        for seed, name in enumerate(("fox", "owl")):
            tensors = vectors(family, 1 + 2 * seed, seed)
            save_file(
                {k.replace("fox", name): 2 * x for k, x in tensors.items()},
                folder / f"{family}-{name}.safetensors",
            )
    return folder


def ours(folder: Path, family: str, sampling: Sampling = Sampling(), **changes) -> LumierePipeline:  # noqa: B008
    model = models.entry(str(folder / family), str(folder / f"{family}-adapter"))
    return LumierePipeline.from_pretrained(replace(model, sampling=sampling, **changes), device="cpu")


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_two_embeddings_are_those_of_diffusers(folder, family):
    their, embeddings = theirs(folder, family, f"{family}-adapter"), []
    for name in ("fox", "owl"):
        file, token = folder / f"{family}-{name}.safetensors", f"<{name}>"
        embeddings.append((str(file), token))
        tensors = load_file(file)
        for number, key in enumerate(sorted(tensors, reverse=True)):  # clip_l, clip_g
            end = f"_{number + 1}" if number else ""
            parts = {"tokenizer": f"tokenizer{end}", "text_encoder": f"text_encoder{end}"}
            options = {option: getattr(their, name) for option, name in parts.items()}
            their.load_textual_inversion({token: tensors[key]}, token=token, **options)
    our = ours(folder, family, embeddings=tuple(embeddings))
    request = replace(REQUEST, prompt="a <fox> ball", negative_prompt="<owl>")
    found = frames_of(our, request)
    assert difference(found, theirs_of(their, request, our.scheduler_config)) <= BAR
    plain = ours(folder, family)
    assert difference(found, frames_of(plain, request)) > BAR


def test_embeddings_and_a_second_base_go_together(folder, tmp_path):
    save_base(tmp_path / "other", "sd", seed=5)
    file = str(folder / "sd-owl.safetensors")
    our = ours(folder, "sd", embeddings=((file, None),), style=Style(base=str(tmp_path / "other"), alpha=0.5))
    weight = our.base.text_encoder.get_input_embeddings().weight
    assert torch.equal(weight[-3:], load_file(file)["<owl>"])
    states = [components("sd", seed)["text_encoder"].get_input_embeddings().weight for seed in (0, 5)]
    torch.testing.assert_close(weight[:-3], torch.stack(states).mean(0))


def test_clip_skip_is_a_shorter_text_encoder_of_diffusers(folder):
    our, their = ours(folder, "sd"), theirs(folder, "sd", "sd-adapter")
    del their.text_encoder.encoder.layers[-1:]
    request = replace(REQUEST, clip_skip=1)
    found = frames_of(our, request)
    assert difference(found, theirs_of(their, request, our.scheduler_config)) <= BAR
    assert difference(found, frames_of(our, REQUEST)) > BAR
    with pytest.raises(ValueError, match="clip_skip of this model must be from 0 to 2: received 3"):
        our.generate(replace(REQUEST, clip_skip=3))


def in_time(their, request: Request, config: dict, prompt: dict, negative: dict, window: int) -> np.ndarray:
    """Frames of diffusers' FreeNoise with prompts by frame."""
    their.enable_free_noise(context_length=window, context_stride=max(1, window // 4))
    request = replace(request, scheduler="ddim")
    return theirs_of(their, request, config, prompt=prompt, negative_prompt=negative)


@pytest.mark.parametrize(
    "frames, free_noise", [(FRAMES, True), (POSITIONS, False)], ids=["FreeNoise", "one window"]
)
def test_prompts_in_time_are_those_of_diffusers(folder, frames, free_noise):
    our, their = ours(folder, "sd", Sampling(free_noise=free_noise)), theirs(folder, "sd", "sd-adapter")
    keys, last = {0: SPRING, 7: "a red ball", 18: WINTER}, frames - 1
    negative = {0: "dull", last: "bright"}
    written, unwanted = (" | ".join(f"{n}: {text}" for n, text in x.items()) for x in (keys, negative))
    request = replace(REQUEST, prompt=written, negative_prompt=unwanted, frames=frames, steps=2)
    found = frames_of(our, request)
    assert difference(found, in_time(their, request, our.scheduler_config, keys, negative, POSITIONS)) <= BAR
    for other in (replace(request, prompt=SPRING), replace(request, negative_prompt="dull")):
        assert difference(found, frames_of(our, other)) > BAR


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_prompts_in_time_go_through_windows(folder, family):
    our, request = ours(folder, family), replace(REQUEST, frames=FRAMES, steps=2)
    texts = []
    our.lumiere.register_forward_pre_hook(
        lambda module, args, kwargs: texts.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    found = frames_of(our, replace(request, prompt=f"8: {SPRING} | 16: {WINTER}"))
    states = (
        our.encode_prompt(replace(request, prompt=SPRING)).states[1],
        our.encode_prompt(replace(request, prompt=WINTER)).states[1],
    )
    first, second = (text.unflatten(0, (2, POSITIONS))[1] for text in texts[:2])
    for frame, share in ((0, 0), (8, 0), (10, 0.25), (16, 1), (23, 1)):
        torch.testing.assert_close(first[frame], torch.lerp(*states, share))
    torch.testing.assert_close(second[:15], first[9:])  # the second window begins at frame 9
    same = frames_of(our, replace(request, prompt=f"0: {SPRING} | 16: {SPRING}"))
    plain = frames_of(our, replace(request, prompt=SPRING))
    assert difference(same, plain) <= BAR < difference(found, plain)


def test_close_keys_are_told(folder):
    our = ours(folder, "sd", Sampling(window=16))
    assert our.close_keys(replace(REQUEST, prompt="0: a | 16: b", frames=32)) is None
    assert our.close_keys(REQUEST) is None
    told = our.close_keys(replace(REQUEST, prompt="0: a | 16: b | 24: c", frames=32))
    assert told.startswith("Keys of the prompt are 8 frames apart") and "about 16 frames" in told


def test_segments_and_stills_have_the_text_of_their_frames(tmp_path, monkeypatch):
    """Lumiere's own motion weights, without text and with channels for given pixels."""
    save_base(tmp_path / "sd", "sd")
    base = load_base(tmp_path / "sd", torch.float32)
    lumiere = Lumiere.from_unet(base.unet, cond_channels=5)
    our = LumierePipeline(
        base, lumiere, Model(str(tmp_path / "sd"), sampling=Sampling(segment=12, context=4))
    )
    texts = []
    lumiere.register_forward_pre_hook(
        lambda module, args, kwargs: texts.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    stills = []
    monkeypatch.setattr(our, "first_frame_prompt", lambda prompt: stills.append(prompt) or prompt)
    request = Request(
        f"0: {SPRING} | 16: {WINTER}", frames=20, steps=1, seed=1, guidance=1.0, first_frame="base"
    )
    assert frames_of(our, request).shape[0] == 20 and stills == [SPRING]
    whole = our.encode_prompt(request.filled(our.defaults)).states[0]
    assert [len(text) for text in texts] == [12, 12]
    assert torch.equal(texts[0], whole[:12]) and torch.equal(texts[1], whole[8:])


def test_the_embedded_model_refuses_what_it_was_not_trained_for():
    our = LumierePipeline.from_pretrained("paper-world", device="cpu")
    with pytest.raises(ValueError, match="prompts in time need motion weights without text"):
        our.generate(Request("0: a red ball | 8: a blue ball", frames=16))
    with pytest.raises(
        ValueError, match="clip_skip of this model must be 0, as the text encoder was trained"
    ):
        our.generate(Request("a red ball", clip_skip=1))
    plain, strong = (our.encode_prompt(Request(f"a {red} ball")).states for red in ("red", "(red:1.5)"))
    assert not torch.equal(plain, strong)


def test_commands_take_embeddings_and_keys(folder, tmp_path, capsys):
    options = ["--model", str(folder / "sd"), "--motion", str(folder / "sd-adapter"), "--device", "cpu"]
    options += ["--frames", "8", "--steps", "1", "--clip-skip", "1", "-o", str(tmp_path / "clip.mp4")]
    embedding = ["--embedding", f"{folder / 'sd-fox.safetensors'}:<cub>"]
    assert command.main(["0: a <cub> | 4: a (tree:1.2)", *embedding, *options]) == 0
    told = capsys.readouterr().err
    assert "Keys of the prompt are 4 frames apart" in told and "ignored" not in told
    wrong = ["--embedding", str(folder / "xl-fox.safetensors")]
    assert command.main(["a fox", *wrong, *options]) == 2
    assert "xl-fox.safetensors is for Stable Diffusion XL" in capsys.readouterr().err
