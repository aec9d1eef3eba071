"""Rewrites prompts for the first frame of a clip, which shows the scene before any motion.

A base model draws static scenes best. `first_frame.json` in a model folder maps the motion phrases of its
vocabulary to static replacements.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lumiere.loading.layout import FIRST_FRAME
from lumiere.model.motion_files import read_json


@dataclass(frozen=True)
class FirstFramePrompt:
    """Replaces motion phrases in a prompt.

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
        pattern = rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"
        lowered = {phrase.lower(): text for phrase, text in self.replace.items()}
        found = [lowered[match.lower()] for match in re.findall(pattern, prompt, re.IGNORECASE)]
        still = re.sub(pattern, lambda match: lowered[match[0].lower()], prompt, flags=re.IGNORECASE)
        return " ".join((still if any(found) else f"{still} {self.append}").split())
