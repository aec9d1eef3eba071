"""Encodes prompts with the text encoders of a base pipeline; textual inversions, prompts of first frames.

The syntax of prompts is in lumiere/prompts.py.
"""

import re
import threading
import unicodedata
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from lumiere.loading.components import BasePipeline, text_encoders
from lumiere.loading.file_kinds import INVERSION, kind_of
from lumiere.loading.layout import FIRST_FRAME, locate_file
from lumiere.model.animatediff import read_tensors
from lumiere.model.motion_files import read_json
from lumiere.model.text import Text
from lumiere.prompts import keyframes, unweighted, weighted

CHUNKS = 8  # a prompt of 2000 characters has about six chunks of 75 tokens
EMBEDDING = "learned_embeds.safetensors"  # file name in folders written by diffusers
OF_XL = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}  # keys of embeddings for XL
UNNAMED = "emb_params"  # key of AUTOMATIC1111's web UI, which names embeddings by their files
Tokens: TypeAlias = list[tuple[int, float]]  # with their weights


class TextEncoder:
    """Encodes prompts with the text encoders of a base pipeline, one call at a time.

    A fast tokenizer keeps padding and truncation as state, which every call sets; LoRA scales are state, too.
    Hold `lock` to change either.

    Args:
        base: pipeline with one text encoder (Stable Diffusion 1.x and 2.x) or two (XL).
    """

    def __init__(self, base: BasePipeline):
        self.base, self.lock = base, threading.Lock()

    @torch.no_grad()
    def __call__(
        self,
        texts: list[str],
        height: int,
        width: int,
        device: torch.device | None = None,
        *,
        clip_skip: int = 0,
        plain: bool = False,
    ) -> Text:
        """Encodes prompts, each in as many chunks as the longest one needs.

        A chunk has the length of the positional embeddings: a start token, 75 tokens, an end token. Hidden
        states of chunks are concatenated. A weighted token lies between the state of the same position in an
        empty prompt (weight 0) and its own (1), or beyond.

        Args:
            texts: n prompts. XL encodes an empty one as zeros, as in its training, if its config says so.
            height: height of the clip in pixels, part of XL's size conditioning.
            width: width of the clip in pixels, part of XL's size conditioning.
            device: device of the result. Defaults to that of the text encoder.
            clip_skip: number of last layers to skip, 0 to `max_clip_skip`.
            plain: reads no weights and keeps one chunk, as for captions of a training.

        Returns:
            Embeddings with n rows.
        """
        device = device or self.base.text_encoder.device
        pieces = [[(text, 1.0)] if plain else weighted(text) for text in texts]
        with self.lock:
            tokens = {
                name: [_tokens(tokenizer, each) for each in pieces]
                for name, (_, tokenizer) in text_encoders(self.base).items()
            }
            longest = max(len(row) for rows in tokens.values() for row in rows)
            chunks = 1 if plain else min(max(1, -(-longest // _room(self.base.tokenizer))), CHUNKS)
            encoded = [self._encode(name, rows, chunks, clip_skip, device) for name, rows in tokens.items()]
        states = torch.cat([states for states, _ in encoded], dim=-1).to(device)
        if len(encoded) == 1:
            return Text(states)
        pooled = encoded[-1][1].to(device)
        if self.base.config.force_zeros_for_empty_prompt:
            known = torch.tensor([float(bool(text)) for text in texts]).to(pooled)
            states, pooled = states * known[:, None, None], pooled * known[:, None]
        # Original size, top left corner of the crop, target size: nothing is cropped.
        sizes = torch.tensor([height, width, 0, 0, height, width]).to(pooled).expand(len(texts), -1)
        return Text(states, {"text_embeds": pooled, "time_ids": sizes})

    @property
    def max_clip_skip(self) -> int:
        """Largest valid `clip_skip`; 0 for a text encoder that was trained together with its UNet."""
        if not isinstance(self.base.tokenizer, CLIPTokenizer):
            return 0
        layers = [encoder.config.num_hidden_layers for encoder, _ in text_encoders(self.base).values()]
        return min(layers) - len(layers)  # XL takes the last layer but one

    def unknown_words(self, prompt: str) -> list[str]:
        """Returns the words of a prompt that the model ignores, each once and in order.

        A word is ignored if it is outside the vocabulary of the first tokenizer or beyond `CHUNKS` chunks.
        """
        tokenizer = self.base.tokenizer
        options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        words: dict[str, None] = {}  # an ordered set
        for _, key in keyframes(prompt):
            text = unweighted(key).encode("utf-8", "replace").decode()  # tokenizers reject lone surrogates
            with self.lock:
                tokens = tokenizer(text, **options)
            pairs = zip(tokens.input_ids, tokens.offset_mapping, strict=True)
            for place, (token, (start, end)) in enumerate(pairs):
                ignored = token == tokenizer.unk_token_id or place >= CHUNKS * _room(tokenizer)
                if ignored and _is_word(text[start:end]):
                    words[_whole_word(text, start, end)] = None
        return list(words)

    def _encode(
        self, name: str, rows: list[Tokens], chunks: int, clip_skip: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Returns the states `n (chunks d) k` of a text encoder; of one with a projection also `n p`."""
        pairs = text_encoders(self.base)
        encoder, tokenizer = pairs[name]
        room = _room(tokenizer)
        starts = range(0, chunks * room, room)
        padded = [_padded(row[start : start + room], tokenizer) for row in rows for start in starts]
        weights = torch.tensor([[weight for _, weight in chunk] for chunk in padded], device=device)
        if any_weighted := bool((weights != 1).any()):
            padded.append(_padded([], tokenizer))
        ids = torch.tensor([[token for token, _ in chunk] for chunk in padded], device=device)
        output = encoder(ids, output_hidden_states=True)
        if len(pairs) > 1:
            states = output.hidden_states[-2 - clip_skip]
        else:
            states = _transformer(encoder).final_layer_norm(output.hidden_states[-1 - clip_skip])
        if any_weighted:
            states = torch.lerp(states[-1:], states[:-1], weights[..., None].to(states))
        return states.unflatten(0, (len(rows), chunks)).flatten(1, 2), output[0][: len(weights) : chunks]


def load_embedding(base: BasePipeline, source: str, token: str | None = None) -> None:
    """Adds the vectors of a textual inversion to the vocabulary (Gal et al. 2022, arXiv 2208.01618).

    Args:
        base: the base pipeline.
        source: `.safetensors` file of diffusers or of AUTOMATIC1111's web UI, folder with a file of
            diffusers, or hub id. Files for XL hold vectors for both text encoders.
        token: word that stands for the vectors in a prompt. Defaults to the one in the file, or to the name
            of the file.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: it is of another kind or for another family, or the token is not a new word.
    """
    file = locate_file(source, "embedding", EMBEDDING)
    if file.suffix != ".safetensors":
        raise ValueError(
            f"embeddings are read from .safetensors only, as others can run code: received {file}."
        )
    weights = read_tensors(file, "embedding")
    vectors = _vectors(base, weights, source)
    if token is None:
        key = next(iter(weights))
        token = file.stem if key in (*OF_XL, UNNAMED) else key
    _check_token(base, token, source)
    for name, tensor in vectors.items():
        encoder, tokenizer = text_encoders(base)[name]
        # Of this size before diffusers asks for it, which would draw random vectors and say so.
        encoder.resize_token_embeddings(len(tokenizer) + len(tensor), mean_resizing=False)
        base.load_textual_inversion({token: tensor}, token=token, tokenizer=tokenizer, text_encoder=encoder)
        # Configs of XL have token 2, with which transformers pools at the largest token: the new one.
        _transformer(encoder).eos_token_id = tokenizer.eos_token_id


def _vectors(base: BasePipeline, weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Returns the vectors `n k` of a file by the name of their text encoder.

    Raises:
        ValueError: the file is of another kind or for another family, or its values are not finite.
    """
    kind = kind_of(weights)
    if weights.keys() == OF_XL.keys():
        found = {name: weights[key] for key, name in OF_XL.items()}
    elif len(weights) == 1 and kind in (None, INVERSION):
        found = {"text_encoder": next(iter(weights.values()))}
    else:
        kind = kind or f"of no known kind, with {len(weights)} tensors"
        raise ValueError(f"{source} is {kind}; it is not supported as an embedding.")
    found = {name: torch.atleast_2d(tensor).float() for name, tensor in found.items()}
    if len(found) != len(text_encoders(base)):
        families = ["Stable Diffusion 1.x or 2.x", "Stable Diffusion XL"]
        families = families if len(found) == 1 else families[::-1]
        raise ValueError(f"the embedding {source} is for {families[0]}: this base is {families[1]}.")
    room = _room(base.tokenizer)
    for name, tensor in found.items():
        width = base.components[name].get_input_embeddings().weight.shape[1]
        if tensor.ndim != 2 or tensor.shape[1] != width:
            shape = " x ".join(map(str, tensor.shape))
            raise ValueError(
                f"the embedding {source} is for another family: its vectors are {shape}, where the {name} "
                f"takes vectors of {width}."
            )
        if not tensor.isfinite().all():
            raise ValueError(f"the embedding {source} holds values that are not numbers.")
    lengths = {len(tensor) for tensor in found.values()}
    if len(lengths) > 1 or not 1 <= min(lengths) <= room:
        raise ValueError(
            f"the embedding {source} must have 1 to {room} vectors, as many for each text encoder: received "
            f"{' and '.join(map(str, sorted(lengths)))}."
        )
    return found


def _check_token(base: BasePipeline, token: str, source: str) -> None:
    if not token or any(character.isspace() or character in "()|:\\" for character in token):
        raise ValueError(
            f"the token of the embedding {source} must be a word without spaces and any of ( ) | : \\, as "
            f"FILE:<token>: received {token!r}."
        )
    # Tokenizers find added tokens in any case.
    if token.lower() in map(str.lower, base.tokenizer.get_vocab()):
        raise ValueError(
            f"the token {token} of the embedding {source} is in the vocabulary: name another one, FILE:TOKEN."
        )


def _transformer(encoder: Any) -> Any:
    """Returns the transformer inside a text encoder with a projection."""
    return getattr(encoder, "text_model", encoder)


def _tokens(tokenizer: PreTrainedTokenizerBase, pieces: list[tuple[str, float]]) -> Tokens:
    """Returns the tokens of weighted text, all vectors of embeddings among them."""
    found, added = [], tokenizer.added_tokens_decoder
    for text, weight in pieces:
        for token in tokenizer(text, add_special_tokens=False, verbose=False).input_ids:
            found.append((token, weight))
            # Of several vectors, diffusers names the further ones TOKEN_1, TOKEN_2, …
            further = (tokenizer.added_tokens_encoder.get(f"{added[token]}_{n}") for n in count(1))
            found += [(each, weight) for each in takewhile(bool, further)] if token in added else []
    return found


def _room(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the tokens per chunk without start and end, 75 for CLIP."""
    return tokenizer.model_max_length - 2


def _padded(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Returns a chunk: start token, tokens, end token and padding, with weight 1 where it has no words."""
    start, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rest = _room(tokenizer) - len(tokens)
    return [(start, 1.0), *tokens, (end, 1.0), *[(padding, 1.0)] * rest]


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


@dataclass(frozen=True)
class FirstFramePrompt:
    """Rewrites a prompt for the first frame of a clip: a base model draws static scenes best.

    `first_frame.json` in a model folder maps the motion phrases of its vocabulary to static replacements.

    Attributes:
        replace: motion phrase -> static replacement. An empty mapping leaves prompts unchanged.
        append: text added to a prompt if no phrase in it has a replacement that is not empty.
    """

    replace: dict[str, str]
    append: str = ""

    @classmethod
    def load(cls, folder: Path) -> "FirstFramePrompt":
        """Reads `first_frame.json` of a model folder. Without the file, prompts stay unchanged.

        Args:
            folder: model folder.

        Raises:
            OSError: the file does not contain a valid mapping.
        """
        file = folder / FIRST_FRAME
        rule = read_json(file) if file.is_file() else {"replace": {}}
        replace, append = rule.get("replace"), rule.get("append", "")
        if not isinstance(replace, dict) or not all(isinstance(x, str) for x in (append, *replace.values())):
            raise OSError(f"{file} does not say how prompts of first frames are written.")
        return cls(replace, append)

    def __call__(self, prompt: str) -> str:
        """Returns the prompt of the first frame; phrases match whole words in any case, the longest first."""
        if not self.replace:
            return prompt
        longest_first = sorted(self.replace, key=len, reverse=True)
        phrases = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)
        lowered = {phrase.lower(): text for phrase, text in self.replace.items()}
        replaced = any(lowered[phrase.lower()] for phrase in phrases.findall(prompt))
        still = phrases.sub(lambda phrase: lowered[phrase[0].lower()], prompt)
        return " ".join((still if replaced else f"{still} {self.append}").split())
