"""Prompts of first frames: what a clip shows before anything moves.

A base draws best what stands still. `first_frame.json` in a model's folder says which phrases of its
vocabulary name a motion, and what stands in their place in the prompt of the first frame.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lumiere.loading.layout import FIRST_FRAME
from lumiere.model.motion_files import read_json


@dataclass(frozen=True)
class FirstFramePrompt:
    """Rewrites prompts. replace: phrase -> what stands in its place. append: added where none was found."""

    replace: dict[str, str]
    append: str = ""

    @classmethod
    def load(cls, folder: Path) -> "FirstFramePrompt":
        """The rule of a model folder; prompts stay as they are without one.

        Raises:
            OSError: the file does not hold such a rule.
        """
        file = folder / FIRST_FRAME
        rule = read_json(file) if file.is_file() else {"replace": {}}
        replace, append = rule.get("replace"), rule.get("append", "")
        if not isinstance(replace, dict) or not all(isinstance(x, str) for x in (append, *replace.values())):
            raise OSError(f"{file} does not say how prompts of first frames are written.")
        return cls(replace, append)

    def __call__(self, prompt: str) -> str:
        if not self.replace:
            return prompt
        longest_first = sorted(self.replace, key=len, reverse=True)
        pattern = rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"
        lowered = {phrase.lower(): text for phrase, text in self.replace.items()}
        found = [lowered[match.lower()] for match in re.findall(pattern, prompt, re.IGNORECASE)]
        still = re.sub(pattern, lambda match: lowered[match[0].lower()], prompt, flags=re.IGNORECASE)
        return " ".join((still if any(found) else f"{still} {self.append}").split())
