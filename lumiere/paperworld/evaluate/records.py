"""Stores the records of evaluations in a JSON file, which several processes may share.

    {sampling version: {model and settings: {"clips": digests, seed: {row: {number: record}}}}}

"clips" holds the digests of three clips with fixed seeds: different digests now mean that the sampling has
changed since the records were made.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lumiere.paperworld.evaluate.measures import alike
from lumiere.sampling.settings import SAMPLING_VERSION

CLIPS = "clips"
Record = dict[str, Any]  # JSON data about one prompt or one timing round


class Records:
    """The records of one sampling version, model, set of settings and seed.

    Args:
        file: JSON file.
        name: model and settings.
        seed: base seed of the evaluation.
        version: sampling version.

    Raises:
        ValueError: the file does not hold records.
    """

    def __init__(self, file: str | Path, name: str, seed: int, version: int = SAMPLING_VERSION):
        self.file, self.version, self.name, self.seed = Path(file), str(version), name, str(seed)
        self.rows: dict[str, dict[str, Record]] = self._place(self._read()).get(self.seed, {})

    def of(self, row: str, numbers: Iterable[int]) -> dict[int, Record]:
        """Returns the existing records of a row: number -> record.

        Args:
            row: name of the row.
            numbers: prompt numbers.
        """
        kept = self.rows.get(row, {})
        return {index: kept[str(index)] for index in numbers if str(index) in kept}

    def add(self, row: str, index: int, record: Record) -> None:
        """Adds a record, merges the records of other processes and writes the file.

        Args:
            row: name of the row.
            index: prompt number.
            record: JSON data.

        Raises:
            OSError: the file cannot be written.
            ValueError: the file no longer holds records.
        """
        self.rows.setdefault(row, {})[str(index)] = record
        whole = self._read()
        written = self._place(whole).setdefault(self.seed, {})
        for name, records in written.items():  # written by other processes in the meantime
            self.rows[name] = records | self.rows.get(name, {})
        written.update(self.rows)
        self._write(whole)

    def accept(self, clips: list[list[int]]) -> bool:
        """Returns whether the digests match this version; the first digests define it."""
        whole = self._read()
        place = self._place(whole)
        if CLIPS in place:
            return alike(place[CLIPS], clips)
        place[CLIPS] = clips
        self._write(whole)
        return True

    def remember(self, clips: list[list[int]]) -> bool:
        """Stores the digests and drops other versions; returns False if records of other clips exist."""
        whole = self._read()
        place = self._place(whole)
        if set(place) > {CLIPS} and not alike(place.get(CLIPS, clips), clips):
            return False
        place[CLIPS] = clips
        self._write({self.version: whole[self.version]})
        return True

    def _place(self, whole: dict[str, Any]) -> dict[str, Any]:
        return whole.setdefault(self.version, {}).setdefault(self.name, {})

    def _read(self) -> dict[str, Any]:
        try:
            whole = json.loads(self.file.read_text()) if self.file.exists() else {}
        except ValueError:
            whole = None
        if not isinstance(whole, dict):
            raise ValueError(f"{self.file} does not hold records of an evaluation: name another file.")
        return whole

    def _write(self, whole: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}.part")
        part.write_text(json.dumps(whole, separators=(",", ":")))
        os.replace(part, self.file)
