"""Encodes prompts with one CLIP text encoder (Stable Diffusion 1.x and 2.x) or two (XL)."""

import threading
import unicodedata

import torch

from lumiere.loading.components import load_tokenizer
from lumiere.loading.layout import INDEX, is_xl
from lumiere.loading.lora import Styler
from lumiere.model.motion_files import read_json
from lumiere.model.text import Text


class TextReader:
    """The text encoders of a model with their tokenizers.

    With two encoders, the last one provides the pooled embeddings (SDXL, section 2.1).

    Args:
        encoders: CLIP text encoders, in the order of `text_encoder`, `text_encoder_2`.
        tokenizers: one for each encoder.
        empty_is_zero: encodes an empty prompt as zeros, as in the training of XL.
    """

    def __init__(self, encoders: list, tokenizers: list, empty_is_zero: bool = False):
        self.encoders, self.tokenizers, self.empty_is_zero = encoders, tokenizers, empty_is_zero
        self._tokenizing = threading.Lock()

    @classmethod
    def load(cls, styler: Styler, dtype: torch.dtype) -> "TextReader":
        """Loads the text encoders and tokenizers of a model folder onto the CPU.

        Args:
            styler: loader of the model folder, which merges its style.
            dtype: dtype of the weights.

        Raises:
            OSError: a file is missing or damaged.
            ValueError: the style does not fit a text encoder.
        """
        folder = styler.folder
        ends = ("", "_2") if is_xl(folder) else ("",)
        zero = is_xl(folder) and read_json(folder / INDEX).get("force_zeros_for_empty_prompt", True)
        return cls(
            [styler.load(f"text_encoder{end}", dtype) for end in ends],
            [load_tokenizer(folder, f"tokenizer{end}") for end in ends],
            bool(zero),
        )

    @property
    def parts(self) -> dict:
        """The encoders by the names of their folders."""
        return dict(zip(("text_encoder", "text_encoder_2"), self.encoders, strict=False))

    def to(self, device: torch.device) -> "TextReader":
        """Moves the encoders to `device`, freezes their weights and returns `self`."""
        for encoder in self.encoders:
            encoder.requires_grad_(False).to(device)
        return self

    @torch.no_grad()
    def __call__(self, texts: list[str], height: int, width: int) -> Text:
        """Encodes prompts.

        Args:
            texts: n prompts.
            height: height of the clip in pixels, part of XL's size conditioning.
            width: width of the clip in pixels, part of XL's size conditioning.

        Returns:
            Embeddings with n rows.
        """
        outputs = [self._read(index, texts) for index in range(len(self.encoders))]
        if len(outputs) == 1:
            return Text(outputs[0][0])
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)  # n d k
        pooled = outputs[-1].text_embeds
        if self.empty_is_zero:
            said = torch.tensor([float(bool(text)) for text in texts]).to(pooled)
            states, pooled = states * said[:, None, None], pooled * said[:, None]
        # Original size, top left corner of the crop, target size: nothing is cropped.
        sizes = torch.tensor([height, width, 0, 0, height, width]).to(pooled).expand(len(texts), -1)
        return Text(states, {"text_embeds": pooled, "time_ids": sizes})

    def unknown_words(self, prompt: str) -> list[str]:
        """Returns the words of a prompt that the model ignores, each once and in order.

        A word is ignored if it is outside the vocabulary of the first tokenizer or beyond its maximum length.
        """
        tokenizer = self.tokenizers[0]
        prompt = prompt.encode("utf-8", "replace").decode()  # tokenizers reject lone surrogates
        tokens = self._tokenize(
            0, prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        room = self._length(0) - tokenizer.num_special_tokens_to_add()
        words = {}  # an ordered set
        for place, (token, (start, end)) in enumerate(
            zip(tokens.input_ids, tokens.offset_mapping, strict=True)
        ):
            if (token == tokenizer.unk_token_id or place >= room) and _is_word(prompt[start:end]):
                words[_whole_word(prompt, start, end)] = None
        return list(words)

    def _read(self, index: int, texts: list[str]):
        encoder, padded = self.encoders[index], {"padding": "max_length", "truncation": True}
        tokens = self._tokenize(index, texts, max_length=self._length(index), return_tensors="pt", **padded)
        return encoder(tokens.input_ids.to(encoder.device), output_hidden_states=len(self.encoders) > 1)

    def _tokenize(self, index: int, text: str | list[str], **options):
        # Locked: a fast tokenizer stores padding and truncation as state, which every call sets.
        with self._tokenizing:
            return self.tokenizers[index](text, **options)

    def _length(self, index: int) -> int:
        """Maximum number of tokens of an encoder, including start and end."""
        positions = self.encoders[index].config.max_position_embeddings
        return min(self.tokenizers[index].model_max_length, positions)


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
