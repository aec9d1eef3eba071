"""Training of the motion weights: exact resume, the frozen base, several processes."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from lumiere.loading.components import load_base, load_model
from lumiere.loading.text_encoder import TextEncoder
from lumiere.media.video import read_clip
from lumiere.model.motion_weights import load_motion, read_facts
from lumiere.sampling.schedulers import predict_x0
from lumiere.train import EXAMPLES, main, parser
from lumiere.training.config import ALIASES, CLIPS, FRESH, NOISE, RUN, STEPS, Settings, unused
from lumiere.training.latent_dataset import write_captions
from lumiere.training.loss import min_snr, noise_and_target, weighted_error
from lumiere.training.optimizer import relative_rate
from lumiere.training.trainer import Trainer, train
from tests.clips import drawing

ROOT = Path(__file__).resolve().parents[2]
GROUPS = (CLIPS, FRESH, NOISE, STEPS, RUN)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Six clips of 10 frames, 4 x 8 x 8: smooth, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    still, change = random.standard_normal((2, 6, 1, 4, 8, 8))
    times = np.linspace(0, 1, 10).reshape(1, 10, 1, 1, 1)
    np.save(folder / "latents.npy", (still + times * change).astype(np.float16))
    np.save(folder / "weights.npy", random.integers(0, 256, (6, 10, 8, 8), np.uint8))
    write_captions(folder, [["a red ball bouncing", "a ball"]] * 6)
    return folder


@pytest.fixture
def settings(tiny_model, clips, tmp_path):
    """Makes settings for a run in a folder of this name, in exact arithmetic unless asked otherwise."""

    def make(name: str = "run", **given) -> Settings:
        given = {"frames": 8, "steps": 6, "batch_size": 2, "warmup": 2, "precision": "no", "seed": 3} | given
        return Settings(str(tiny_model), str(clips), str(tmp_path / name), **given)

    return make


def trainer(settings: Settings) -> Trainer:
    made = Trainer(settings, Accelerator(mixed_precision=settings.precision, cpu=True))
    made.resume()
    return made


def lines(settings: Settings) -> list[dict]:
    """The metrics on disk, without the time that the steps took."""
    found = [json.loads(line) for line in (Path(settings.out) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def result(settings: Settings) -> dict:
    return load_file(Path(settings.out) / "motion" / "motion.safetensors")


def command(settings: Settings) -> list[str]:
    given = {key: value for key, value in vars(settings).items() if value is not None}
    flags = {key: f"--{key.replace('_', '-')}={value}" for key, value in given.items()}
    switches = {key: value for key, value in given.items() if isinstance(value, bool)}
    flags |= {key: f"--{'' if on else 'no-'}{key.replace('_', '-')}" for key, on in switches.items()}
    return list(flags.values())


def test_old_flags_set_the_renamed_settings():
    words = "--model m --data d --out o --batch 6 --checkpointing 1 --shortest 4 --given 0.25"
    read = parser().parse_args(words.split())
    assert (read.batch_size, read.min_frames, read.cond_prob) == (6, 4, 0.25)
    assert read.gradient_checkpointing is True
    assert all(hasattr(Settings, name) for name in ALIASES.values())
    assert not any(f"{old} " in parser().format_help() for old in ALIASES)


@pytest.mark.slow
def test_interrupted_run_equals_the_unbroken_one_bit_for_bit(settings):
    whole, broken = settings("whole"), settings("broken", save_minutes=0.0)
    list(train(whole))
    for metrics in islice(train(broken), 4):
        if metrics["step"] == 2:  # as if the steps after it had not been saved before the kill
            shutil.copy(Path(broken.out) / "checkpoint.pt", Path(broken.out) / "kept.pt")
    os.replace(Path(broken.out) / "kept.pt", Path(broken.out) / "checkpoint.pt")
    with open(Path(broken.out) / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    assert [metrics["step"] for metrics in train(broken)] == [3, 4, 5, 6]
    assert [line["step"] for line in lines(whole)] == [1, 2, 3, 4, 5, 6]
    assert lines(broken) == lines(whole)
    assert same(result(broken), result(whole))


@pytest.mark.slow
def test_steps_may_be_raised(settings):
    list(train(settings(steps=2)))
    assert [metrics["step"] for metrics in train(settings(steps=4))] == [3, 4]
    assert list(train(settings(steps=4))) == []


@pytest.mark.slow
def test_only_motion_weights_change(settings, tiny_model):
    run = trainer(settings())
    before = {key: value.clone() for key, value in run.lumiere.state_dict().items()}
    for _ in range(3):
        run.advance()
    after, base = run.lumiere.state_dict(), run.lumiere.model
    assert [key for key in before if torch.equal(before[key], after[key])] == []
    assert same(base.state_dict(), load_model(tiny_model, "unet", torch.float32).state_dict())
    assert all(weight.grad is None for weight in base.parameters())
    assert same(before, trainer(settings("other")).lumiere.state_dict()), "fresh weights depend on the seed"


@pytest.mark.slow
def test_the_result_is_the_moving_average_and_can_be_trained_on(settings, tiny_model):
    made = settings(ema=0.9, steps=3)
    run = trainer(made)
    average = {key: value.double() for key, value in run.lumiere.state_dict().items()}
    for step in range(1, 4):
        run.advance()
        decay = min(0.9, step / (step + 10))
        for key, value in run.lumiere.state_dict().items():
            average[key] = decay * average[key] + (1 - decay) * value
    run.save()
    saved = result(made)
    assert all(torch.allclose(saved[key].double(), average[key], atol=1e-6) for key in average)
    facts = read_facts(Path(made.out) / "motion")
    assert facts["steps"] == 3 and facts["clips_seen"] == 6 and facts["base"] == tiny_model.name
    assert facts["loss"] == pytest.approx(np.mean([line["loss"] for line in lines(made)]))
    AcceleratorState._reset_state(reset_partial_state=True)
    continued = trainer(settings("continued", init=str(Path(made.out) / "motion")))
    assert same(continued.lumiere.state_dict(), saved)


@pytest.mark.slow
def test_the_noise_of_earlier_weights_is_kept_unless_another_is_asked_for(settings):
    first, found = settings(steps=1, noise_correlation=0.25), []
    list(train(first))
    for name, given in (("kept", {}), ("changed", {"noise_correlation": 0.75})):
        AcceleratorState._reset_state(reset_partial_state=True)
        continued = settings(name, steps=1, init=str(Path(first.out) / "motion"), **given)
        list(train(continued))
        described = json.loads((Path(continued.out) / "motion" / "motion.json").read_text())
        found.append(described["noise_correlation"])
    assert found == [0.25, 0.75]


@pytest.mark.slow
def test_weights_that_took_no_given_pixels_learn_to(settings):
    first = settings(steps=1, cond_prob=0.0)
    list(train(first))
    AcceleratorState._reset_state(reset_partial_state=True)
    continued = settings("given", steps=2, init=str(Path(first.out) / "motion"), cond_prob=0.5)
    list(train(continued))
    found = [json.loads((Path(s.out) / "motion" / "motion.json").read_text()) for s in (first, continued)]
    assert [description["cond_channels"] for description in found] == [0, 5]
    assert result(continued)["conv_in.weight"].abs().max() > 0


@pytest.mark.slow
def test_losses_are_plotted_and_clips_are_made_on_the_way(settings):
    made = settings(steps=4, sample_steps=2)
    assert [metrics["step"] for metrics in train(made)] == [1, 2, 3, 4]
    assert Image.open(Path(made.out) / "loss.png").size == (960, 540)
    samples = sorted((Path(made.out) / "samples").iterdir())
    assert [file.name for file in samples] == ["0000002.mp4", "0000004.mp4"]
    assert read_clip(samples[0])[0].shape[0] == 8


@pytest.mark.slow
def test_a_clip_that_cannot_be_written_does_not_end_the_training(settings, capsys):
    made = settings(steps=2, sample_steps=1)
    Path(made.out).mkdir()
    (Path(made.out) / "samples").write_text("in the way")
    assert [metrics["step"] for metrics in train(made)] == [1, 2]
    assert "no clip of step 1: " in capsys.readouterr().err


@pytest.mark.slow
def test_passes_add_up_to_the_step(settings):
    """Clip by clip, or all four in one pass: one gradient."""
    gradients = []
    for name, passes in (("one", 1), ("four", 4)):
        run = trainer(settings(name, batch_size=4, grad_accum=passes))
        loss = run._gradients()
        gradients.append((loss, [weight.grad.clone() for weight in run.lumiere.parameters()]))
        AcceleratorState._reset_state(reset_partial_state=True)
    (loss, one), (same_loss, four) = gradients
    assert loss == pytest.approx(same_loss, rel=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(one, four, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_what_other_processes_draw_is_the_same(settings, workers):
    drawn = [metrics["loss"] for metrics in train(settings("alone", steps=3, batch_size=4, grad_accum=2))]
    AcceleratorState._reset_state(reset_partial_state=True)
    made = settings("helped", steps=3, batch_size=4, grad_accum=2, workers=workers)
    assert [metrics["loss"] for metrics in train(made)] == drawn


def test_checkpointing_makes_the_same_step(settings):
    made = []
    for name, checkpointing in (("kept", False), ("again", True)):
        run = trainer(settings(name, gradient_checkpointing=checkpointing))
        assert run.lumiere.model.is_gradient_checkpointing == checkpointing
        made.append((run.advance()["loss"], run.lumiere.state_dict()))
        AcceleratorState._reset_state(reset_partial_state=True)
    (loss, weights), (again, others) = made
    assert loss == again
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-4, atol=1e-6)


def test_fresh_attention_reaches_as_far_as_the_clips_are_long(settings, tiny_model):
    made = settings(steps=1, attention_depth=3)
    list(train(made))
    block = load_motion(load_model(tiny_model, "unet", torch.float32), Path(made.out) / "motion").attns[0]
    assert len(block.temporal_attns) == 3 and len(block.space_time_attns) == 1
    assert block.turned and block.window == 1  # 8 frames are 2 below


def test_shift_shows_more_of_the_noisy_timesteps(settings):
    seen = {}
    for shift in (1.0, 3.0):
        run, times = trainer(settings(str(shift), batch_size=4, shift=shift)), []
        run.lumiere.model.time_proj.register_forward_pre_hook(
            lambda m, args, told=times: told.append(args[0])
        )
        run.advance()
        seen[shift] = torch.cat(times).sort().values / 1000
        AcceleratorState._reset_state(reset_partial_state=True)
    plain, shifted = seen[1.0], seen[3.0]
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain), atol=2e-3, rtol=0)


@pytest.mark.slow
def test_noise_is_shared_in_training_as_the_motion_weights_say(settings):
    changes = {}
    for correlation in (0.0, 0.9):
        run, shown = trainer(settings(str(correlation), batch_size=4, noise_correlation=correlation)), []
        run.lumiere.register_forward_pre_hook(lambda module, args, shown=shown: shown.append(args[0]))
        run.advance()
        changes[correlation] = shown[0].diff(dim=2).square().mean()
        AcceleratorState._reset_state(reset_partial_state=True)
    assert changes[0.9] < 0.3 * changes[0.0]


@pytest.mark.slow
def test_lengths_are_drawn_anew_for_each_step_and_again_alike(settings):
    made = settings("mixed", steps=12, frames=8, min_frames=4, batch_size=4, grad_accum=2)
    run, seen = trainer(made), []
    run.lumiere.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2]))
    told = [run.advance()["frames"] for _ in range(12)]
    assert seen == [frames for frames in told for _ in range(2)], "one length for all parts of a step"
    assert set(told) == {4, 8} and 3 <= told.count(4) <= 9
    AcceleratorState._reset_state(reset_partial_state=True)
    again = trainer(settings("again", steps=12, frames=8, min_frames=4, batch_size=4, grad_accum=2))
    assert [again.advance()["frames"] for _ in range(12)] == told
    AcceleratorState._reset_state(reset_partial_state=True)
    assert [trainer(settings("one")).advance()["frames"]] == [8]


@pytest.mark.slow
def test_captions_are_read_once_and_kept_beside_the_latents(settings, clips, tiny_model, monkeypatch):
    made, encode = settings(steps=2), TextEncoder(load_base(tiny_model, torch.float32))
    list(train(made))
    assert len(list(clips.glob("texts-*"))) == 1 and not list(Path(made.out).glob("texts-*"))
    monkeypatch.setattr(TextEncoder, "__call__", lambda *args: pytest.fail("the captions are there already"))
    AcceleratorState._reset_state(reset_partial_state=True)
    run, told = trainer(settings("again")), []
    run.lumiere.register_forward_pre_hook(
        lambda *x: told.append(x[2]["encoder_hidden_states"]), with_kwargs=True
    )
    run.advance()
    batch = run.clips.draw(0, range(2), drawing(2, 8, seed=3, caption_dropout=0.1))
    monkeypatch.undo()
    torch.testing.assert_close(told[0], encode(batch.texts, 64, 64).states, atol=2e-3, rtol=2e-3)
    monkeypatch.setattr(os, "access", lambda folder, mode: False)  # root may write anywhere
    AcceleratorState._reset_state(reset_partial_state=True)
    elsewhere = trainer(settings("elsewhere"))
    assert len(list(elsewhere.out.glob("texts-*"))) == 1


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_min_snr_counts_errors_of_the_clean_clip(kind):
    """An error of x0 counts for the ratio of signal to noise, and never for more than the limit."""
    scheduler, timesteps = DDIMScheduler(prediction_type=kind), torch.tensor([10, 300, 600, 950])
    product = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1, 1)
    clean, noise, wrong = torch.randn(3, 4, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy, target = noise_and_target(scheduler, clean, noise, timesteps)
    other = clean + 0.1 * wrong
    if kind == "epsilon":
        answer = (noisy - product.sqrt() * other) / (1 - product).sqrt()
    else:
        answer = (product.sqrt() * noisy - other) / (1 - product).sqrt()
    ratio = (product / (1 - product)).flatten()
    counts = [
        weighted_error(answer[i : i + 1], target[i : i + 1], torch.ones(1, 1, 2, 8, 8), count)
        for i, count in enumerate(min_snr(scheduler, timesteps, 5.0).split(1))
    ]
    expected = ratio.clamp(max=5.0) * (0.1 * wrong).square().flatten(1).mean(1)
    torch.testing.assert_close(torch.stack(counts), expected, rtol=1e-3, atol=1e-6)
    assert ratio[0] > 5 > ratio[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("less", [{"min_snr": 1.0}, {"common_weight": 0.1}])
def test_what_counts_less_lowers_the_loss_of_a_run(settings, less):
    losses = []
    for name, given in (("plain", {}), ("less", less)):
        losses.append(trainer(settings(name, **given)).advance()["loss"])
        AcceleratorState._reset_state(reset_partial_state=True)
    assert losses[1] < 0.9 * losses[0]


def test_half_precision_reaches_the_base(settings):
    run, seen = trainer(settings(precision="bf16")), []
    for layer in (run.lumiere.model.conv_in, run.lumiere.model.up_blocks[0].resnets[0].conv1):
        layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    assert np.isfinite(run.advance()["loss"])
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert {weight.dtype for weight in run.lumiere.parameters()} == {torch.float32}


def test_nothing_before_the_first_temporal_layer_is_differentiated(settings):
    run, seen = trainer(settings()), []
    for module in (run.lumiere.model.conv_in, run.lumiere.model.time_embedding):  # before layers that follow
        module.register_forward_hook(lambda m, args, output: seen.append(output.requires_grad), prepend=True)
    run.advance()
    assert seen == [False] * 3  # the embedding is made for the temporal layers, too


def test_error_is_weighted_within_each_clip():
    torch.manual_seed(0)
    predicted, target = torch.randn(2, 4, 3, 4, 6, 6)
    weight = 1 + 3 * torch.rand(4, 1, 4, 6, 6)
    whole = weighted_error(predicted, target, weight)
    parts = [weighted_error(predicted[i : i + 2], target[i : i + 2], weight[i : i + 2]) for i in (0, 2)]
    assert torch.allclose(whole, sum(parts) / 2)
    even = weighted_error(predicted, target, torch.ones_like(weight))
    assert torch.allclose(even, (predicted - target).square().mean())
    only = torch.zeros(4, 1, 4, 6, 6)
    only[..., 2, 3] = 5
    expected = (predicted - target)[..., 2, 3].square().mean()
    assert torch.allclose(weighted_error(predicted, target, only), expected)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_target_and_input_give_back_the_clean_clip(kind):
    scheduler = DDIMScheduler(prediction_type=kind)
    clean, noise = torch.randn(2, 3, 4, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0, 500, 999])
    noisy, target = noise_and_target(scheduler, clean, noise, times)
    torch.testing.assert_close(predict_x0(scheduler, target, noisy, times), clean, atol=1e-3, rtol=0)
    for clip, time_ in enumerate(times):  # clip by clip and frame by frame, as the scheduler of images would
        product = scheduler.alphas_cumprod[time_]
        alpha, sigma = product.sqrt(), (1 - product).sqrt()
        for frame in range(5):
            x, y = noisy[clip, :, frame], target[clip, :, frame]
            found = alpha * x - sigma * y if kind == "v_prediction" else (x - sigma * y) / alpha
            assert torch.allclose(found, clean[clip, :, frame], atol=1e-3)


def test_unknown_predictions_are_refused():
    x = torch.zeros(1, 4, 4, 2, 2)
    with pytest.raises(ValueError, match="its config says sample"):
        noise_and_target(DDIMScheduler(prediction_type="sample"), x, x, torch.tensor([1]))


def test_learning_rate_rises_stays_and_falls():
    rates = [relative_rate(step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:71] == [1.0] * 62
    assert rates[99] == pytest.approx(1 / 30)
    assert all(a < b for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert all(a > b for a, b in zip(rates[70:], rates[71:], strict=False))
    assert [relative_rate(step, 100, 10, decay=0.8) for step in (19, 60)] == pytest.approx([1.0, 0.5])
    assert relative_rate(99, 100, 10, decay=0) == 1.0


def test_loss_that_is_not_a_number_stops_before_it_spoils_the_weights(settings, clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / "bad")
    latents = np.load(folder / "latents.npy")
    latents[:] = np.inf
    np.save(folder / "latents.npy", latents)
    run = trainer(Settings(**(vars(settings()) | {"data": str(folder)})))
    with pytest.raises(ValueError, match="loss of step 1 is not a number"):
        run.advance()
    assert all(weight.isfinite().all() for weight in run.lumiere.parameters())


def test_a_gradient_that_is_not_a_number_stops_as_early(settings, monkeypatch):
    run = trainer(settings())
    before = {name: weight.clone() for name, weight in run.lumiere.state_dict().items()}
    gradients = run._gradients

    def spoilt():
        loss = gradients()
        next(run.lumiere.parameters()).grad[...] = torch.inf
        return loss

    monkeypatch.setattr(run, "_gradients", spoilt)
    with pytest.raises(ValueError, match="gradient of step 1 is not a number"):
        run.advance()
    assert all(torch.equal(weight, before[name]) for name, weight in run.lumiere.state_dict().items())


@pytest.mark.parametrize(
    "given, words",
    [
        ({"frames": 6}, "multiple of 4; received 6"),
        ({"frames": 12}, "have 10 frames; training on 12"),
        ({"batch_size": 3, "grad_accum": 2}, "1 processes x 2 passes; received 3 clips"),
        ({"factor": 3}, "power of two"),
        ({"min_frames": 6}, "min_frames must be a multiple of 4; received 6"),
        ({"min_frames": 12}, "min_frames must be at most frames, 8; received 12"),
        ({"min_snr": float("inf")}, "min_snr must be 0 or more; received inf"),
        ({"steps": 0}, "steps must be 1 or more; received 0"),
        ({"ema": 1.0}, "ema must be 0 or more and below 1; received 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be 0 or more; received nan"),
        ({"shift": 0.0}, "shift must be above 0; received 0"),
        ({"attention_depth": 0}, "attention_depth must be 1 or more; received 0"),
        ({"space_time_depth": -1}, "space_time_depth must be 0 or more; received -1"),
        ({"sample_steps": -1}, "sample_steps must be 0 or more; received -1"),
        ({"temporal_kernel": 4}, "Kernel sizes are odd.*received 4"),
        ({"precision": "fp8"}, "precision is one of no, bf16; received fp8"),
        ({"padding_mode": "mirror"}, "padding_mode is one of zeros, circular; received mirror"),
        ({"data": "/nowhere"}, "/nowhere is missing"),
    ],
)
def test_refuses_invalid_settings(settings, given, words):
    with pytest.raises(ValueError, match=words):
        list(train(Settings(**(vars(settings()) | given))))


def test_checkpoint_of_another_factor_is_refused(settings):
    list(train(settings(steps=1)))
    with pytest.raises(ValueError, match="belongs to another model or factor"):
        list(train(settings(factor=2, steps=2)))


@pytest.mark.slow
def test_command_line_trains_and_tells_what_is_wrong(settings, tiny_model, capsys):
    made = settings(steps=2)
    assert main(command(made)) == 0
    assert load_motion(load_model(tiny_model, "unet", torch.float32), Path(made.out) / "motion")
    assert main(command(made)) == 0
    assert "has had its 2 steps" in capsys.readouterr().err
    assert main([*command(made), "--data=/nowhere"]) == 2
    assert main([*command(made), "--model=/nowhere"]) == 1
    assert "there is no model folder /nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("bad_alloc")])
def test_too_little_memory_is_told_with_what_helps(settings, capsys, monkeypatch, error):
    def fail(settings):
        raise error

    monkeypatch.setattr("lumiere.train.show", fail)
    assert main(command(settings())) == 1
    told = capsys.readouterr().err
    options = ("--grad-accum", "--gradient-checkpointing", "--size", "--frames")
    assert all(option in told for option in options)


def test_other_failures_of_the_device_keep_their_traceback(settings, monkeypatch):
    def fail(settings):
        raise RuntimeError("an illegal instruction")

    monkeypatch.setattr("lumiere.train.show", fail)
    with pytest.raises(RuntimeError, match="illegal"):
        main(command(settings()))


def test_help_is_in_groups_and_tells_every_setting():
    text = parser().format_help()
    for title in ("what is trained, and on what", *GROUPS, "examples, which run as they stand"):
        assert f"\n{title}:\n" in text
    for entry in fields(Settings):
        assert f"--{entry.name.replace('_', '-')}" in text


@pytest.mark.slow
@pytest.mark.soak
def test_the_examples_of_the_help_run(tmp_path):
    """As they stand, but for how much of everything."""
    examples = [line.strip() for line in EXAMPLES.replace("\\\n", "").splitlines()[1:]]
    assert len(examples) == 2
    less = "--steps 2 --scenes 4 --batch-size 2 --grad-accum 1 --frames 8 --min-frames 4".split()
    less += ["--sample-steps", "1"]
    for number, example in enumerate(examples):
        out = tmp_path / str(number)
        words = [*shlex.split(example), *less, "--out", str(out)]
        if words[0] == "python":
            words[0] = sys.executable
        else:
            cpu = ["--cpu", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
            words[:2] = [sys.executable, "-m", "accelerate.commands.launch", *cpu]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(words, cwd=ROOT, check=True, env=environment)
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
        assert [path.name for path in sorted((out / "samples").iterdir())] == ["0000001.mp4", "0000002.mp4"]
        (drawn,) = out.glob("paperworld-4x*")
        assert not (drawn / "pixels.npy").exists() and (drawn / "latents.npy").exists()


@pytest.mark.slow
def test_one_clip_can_be_learnt(settings, tiny_model, clips, tmp_path):
    """On a base of random weights, which hands the noise on only if it is wide enough."""
    folder, model = tmp_path / "one", shutil.copytree(tiny_model, tmp_path / "wide")
    folder.mkdir()
    np.save(folder / "latents.npy", np.load(clips / "latents.npy")[:1, :8])
    write_captions(folder, [["a red ball bouncing"]])
    config = UNet2DConditionModel.load_config(model / "unet")
    torch.manual_seed(0)
    config |= {"block_out_channels": (64, 64, 64), "norm_num_groups": 8}
    UNet2DConditionModel.from_config(config).save_pretrained(model / "unet")
    given = {"model": str(model), "data": str(folder), "caption_dropout": 0.0}
    made = settings(steps=100, batch_size=4, warmup=10)
    losses = [metrics["loss"] for metrics in train(Settings(**(vars(made) | given)))]
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:3])


@pytest.mark.slow
def test_two_processes_train_as_one(settings):
    one, two = settings("one", batch_size=4), settings("two", batch_size=4)
    list(train(one))
    launch(2, "-m", "lumiere.train", *command(two))
    for a, b in zip(lines(one), lines(two), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


GRADIENTS = """
import json, sys, torch
from accelerate import Accelerator
from lumiere.training.config import Settings
from lumiere.training.trainer import Trainer

run = Trainer(Settings(**json.loads(sys.argv[1])), Accelerator(mixed_precision="no", cpu=True))
run._gradients()
if run.accelerator.is_main_process:
    torch.save({name: weight.grad for name, weight in run.lumiere.named_parameters()}, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.soak
def test_two_processes_have_the_gradients_of_one(settings, tiny_model, tmp_path):
    """From weights of which all matter; fresh ones have no gradient behind a projection that is zero."""
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    made = json.dumps(vars(settings(batch_size=4, init=str(tiny_model / "motion"))))
    found = []
    for processes in (1, 2):
        file = tmp_path / f"{processes}.pt"
        launch(processes, str(tmp_path / "gradients.py"), made, str(file))
        found.append(torch.load(file))
    one, two = found
    assert min(gradient.abs().max() for gradient in one.values()) > 0
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-7, msg=name)


def launch(processes: int, *arguments: str) -> None:
    """Runs a program in several processes, as its users would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", f"--num_processes={processes}"]
    start += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*start, f"--main_process_port={port}", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, env=environment)


def test_options_without_effect_are_said():
    fresh = Settings("m", "d", "o", init="x", factor=8, temporal_kernel=5, size=256, learning_rate=1.0)
    assert unused(fresh, encoded=True) == [
        "--factor, --temporal-kernel: no effect with --init, whose layers stay as they are.",
        "--size: no effect on latents, which are encoded already.",
    ]
    assert unused(Settings("m", "d", "o", factor=8, fps=16), encoded=False) == []
