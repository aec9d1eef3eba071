"""Encodes prompts with the text encoders of a base pipeline and finds words that they ignore."""

import logging
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lumiere.loading.components import BasePipeline
from lumiere.model.text import Text


class TextEncoder:
    """Encodes prompts through `base.encode_prompt`, one call at a time.

    A fast tokenizer keeps padding and truncation as state, which every call sets; LoRA scales are state, too.
    Hold `lock` to change either.

    Args:
        base: pipeline with one text encoder (Stable Diffusion 1.x and 2.x) or two (XL).
    """

    def __init__(self, base: BasePipeline):
        self.base, self.lock = base, threading.Lock()

    @torch.no_grad()
    def __call__(self, texts: list[str], height: int, width: int, device: torch.device | None = None) -> Text:
        """Encodes prompts.

        Args:
            texts: n prompts. XL encodes an empty one as zeros, as in its training, if its config says so.
            height: height of the clip in pixels, part of XL's size conditioning.
            width: width of the clip in pixels, part of XL's size conditioning.
            device: device of the result. Defaults to that of the text encoder.

        Returns:
            Embeddings with n rows.
        """
        options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        with self.lock, _prompts_unlogged(self.base):
            device = device or self.base.text_encoder.device
            states, _, *pooled = self.base.encode_prompt(texts, device=device, **options)
        if not pooled:
            return Text(states)
        pooled = pooled[0].to(device)
        if self.base.config.force_zeros_for_empty_prompt:
            known = torch.tensor([float(bool(text)) for text in texts]).to(pooled)
            states, pooled = states * known[:, None, None], pooled * known[:, None]
        # Original size, top left corner of the crop, target size: nothing is cropped.
        sizes = torch.tensor([height, width, 0, 0, height, width]).to(pooled).expand(len(texts), -1)
        return Text(states, {"text_embeds": pooled, "time_ids": sizes})

    def unknown_words(self, prompt: str) -> list[str]:
        """Returns the words of a prompt that the model ignores, each once and in order.

        A word is ignored if it is outside the vocabulary of the first tokenizer or beyond its maximum length.
        """
        tokenizer = self.base.tokenizer
        prompt = prompt.encode("utf-8", "replace").decode()  # tokenizers reject lone surrogates
        options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        with self.lock:
            tokens = tokenizer(prompt, **options)
        room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        words: dict[str, None] = {}  # an ordered set
        pairs = zip(tokens.input_ids, tokens.offset_mapping, strict=True)
        for place, (token, (start, end)) in enumerate(pairs):
            if (token == tokenizer.unk_token_id or place >= room) and _is_word(prompt[start:end]):
                words[_whole_word(prompt, start, end)] = None
        return list(words)


@contextmanager
def _prompts_unlogged(base: BasePipeline) -> Iterator[None]:
    """Mutes the warnings in which diffusers and transformers repeat truncated prompts."""
    loggers = [logging.getLogger(type(part).__module__) for part in (base, base.tokenizer)]
    loggers.append(logging.getLogger("transformers.tokenization_utils_base"))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_word(text: str) -> bool:
    """Returns whether the text contains a letter, digit or symbol, not only punctuation and spaces."""
    return any(unicodedata.category(character)[0] in "LNS" for character in text)


def _whole_word(text: str, start: int, end: int) -> str:
    """Returns the whole word around a token. Tokenizers split at apostrophes; some split unknown words."""
    while start and _is_inside(text[start - 1]):
        start -= 1
    while end < len(text) and _is_inside(text[end]):
        end += 1
    return text[start:end]


def _is_inside(character: str) -> bool:
    return character.isalnum() or character in "'\N{RIGHT SINGLE QUOTATION MARK}"
