"""The text encoder and its tokenizer.

The encoder is trained on captions alone: linear heads classify colour, subject, background, motion and speed
(or their absence) from the states at the end token and the padding. This takes minutes. Training through the
denoising loss takes hours, in which the denoiser learns little else.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lumiere.paperworld.training.fit import Schedule, fit
from lumiere.paperworld.world.captions import ATTRIBUTES, caption_with_truth, known_words
from lumiere.paperworld.world.scene import sample_scene

LENGTH, WIDTH = 32, 128
SPECIALS = ("<|startoftext|>", "<|endoftext|>", "<|unknown|>")
VALUES: dict[str, tuple[str | None, ...]] = {name: (None, *table) for name, table in ATTRIBUTES.items()}


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a word-level tokenizer; unknown words share one token, so that the page can list them."""
    vocabulary = {word: index for index, word in enumerate((*SPECIALS, *known_words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIALS[2]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    start, end = ((token, vocabulary[token]) for token in SPECIALS[:2])
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{start[0]} $A {end[0]}", special_tokens=[start, end]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[1],
        pad_token=SPECIALS[1],
        unk_token=SPECIALS[2],
    )


def new_text_encoder(tokenizer: PreTrainedTokenizerBase) -> CLIPTextModel:
    """Returns an untrained CLIPTextModel."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Tensor:
    """Returns token ids `(n, LENGTH)`, padded and truncated.

    Args:
        tokenizer: the tokenizer.
        texts: n texts.
    """
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids


class _Reader(nn.Module):
    """The encoder with one linear head per attribute; the heads are discarded after training."""

    def __init__(self, encoder: CLIPTextModel):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in VALUES.items()})


def train_text_encoder(
    run: str | Path, steps: int = 1500, batch: int = 128, learning_rate: float = 1e-3
) -> tuple[CLIPTextModel, PreTrainedTokenizerFast]:
    """Trains a text encoder on captions of random scenes.

    Args:
        run: folder for checkpoint and metrics.
        steps: training steps.
        batch: captions per step.
        learning_rate: peak learning rate.

    Returns:
        The moving average of the text encoder, and its tokenizer.
    """
    torch.manual_seed(0)
    tokenizer = new_tokenizer()

    def loss(model: _Reader, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(generator.initial_seed())
        captions = [caption_with_truth(sample_scene(rng), rng) for _ in range(batch)]
        ids = tokenize(tokenizer, [_with_strangers(text, rng) for text, _ in captions])
        states = model.encoder(ids).last_hidden_state
        after = ids == tokenizer.eos_token_id  # end and padding attend to the whole caption
        total, right = torch.zeros(()), torch.ones(batch, dtype=torch.bool)
        for name, values in VALUES.items():
            truth = torch.tensor([values.index(said[name]) for _, said in captions])
            logits = model.heads[name](states)  # b n v
            spread = truth[:, None].expand(-1, LENGTH)
            total = total + nn.functional.cross_entropy(logits[after], spread[after])
            right &= ((logits.argmax(-1) == spread) | ~after).all(1)
        return total, {"all_right": right.float().mean().item()}

    averaged = fit(_Reader(new_text_encoder(tokenizer)), loss, Schedule(steps, learning_rate, ema=0.99), run)
    return averaged.encoder.eval(), tokenizer


def _with_strangers(text: str, rng: np.random.Generator) -> str:
    """Inserts 1 to 3 unknown words into 15 % of the captions, as in real prompts."""
    words = text.split()
    if rng.random() < 0.15:
        for _ in range(rng.integers(1, 4)):
            words.insert(rng.integers(1, len(words) + 1), SPECIALS[2])
    return " ".join(words)
