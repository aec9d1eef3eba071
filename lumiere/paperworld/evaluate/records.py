"""Records of evaluations in a JSON file, which several processes may share.

    {version of the sampling: {model and settings: {"clips": digests, seed: {row: {number: record}}}}}

The digests are those of three clips of fixed seeds: where the clips made now have others, the sampling is not
that of the records.
"""

import json
import os
from pathlib import Path

from lumiere.loading.version import SAMPLING_VERSION
from lumiere.paperworld.evaluate.measures import alike

CLIPS = "clips"


class Records:
    """Those of one version, model, settings and seed."""

    def __init__(self, file, name, seed, version=SAMPLING_VERSION):
        self.file, self.version, self.name, self.seed = Path(file), str(version), name, str(seed)
        self.rows = self._place(self._read()).get(self.seed, {})

    def of(self, row, numbers) -> dict:
        """The records of the prompts of these numbers, as far as they exist: number -> record."""
        kept = self.rows.get(row, {})
        return {index: kept[str(index)] for index in numbers if str(index) in kept}

    def add(self, row, index, record):
        self.rows.setdefault(row, {})[str(index)] = record
        whole = self._read()
        written = self._place(whole).setdefault(self.seed, {})
        for name, records in written.items():  # others may have written since
            self.rows[name] = records | self.rows.get(name, {})
        written.update(self.rows)
        self._write(whole)

    def accept(self, clips) -> bool:
        """Whether clips with these digests are of this version: the first ones define it."""
        whole = self._read()
        place = self._place(whole)
        if CLIPS in place:
            return alike(place[CLIPS], clips)
        place[CLIPS] = clips
        self._write(whole)
        return True

    def remember(self, clips) -> bool:
        """Keeps these digests and drops other versions; False where there are records of other clips."""
        whole = self._read()
        place = self._place(whole)
        if set(place) > {CLIPS} and not alike(place.get(CLIPS, clips), clips):
            return False
        place[CLIPS] = clips
        self._write({self.version: whole[self.version]})
        return True

    def _place(self, whole):
        return whole.setdefault(self.version, {}).setdefault(self.name, {})

    def _read(self):
        try:
            whole = json.loads(self.file.read_text()) if self.file.exists() else {}
        except ValueError:
            whole = None
        if not isinstance(whole, dict):
            raise ValueError(f"{self.file} does not hold records of an evaluation: name another file.")
        return whole

    def _write(self, whole):
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}.part")
        part.write_text(json.dumps(whole, separators=(",", ":")))
        os.replace(part, self.file)
