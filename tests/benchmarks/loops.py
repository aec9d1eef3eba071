"""python -m tests.benchmarks.loops [COUNT]: loops of the embedded model and its other clips, as judged."""

import sys

import numpy as np

from lumiere.paperworld.evaluate.evaluate import Studio
from lumiere.paperworld.evaluate.rows import SEED, scene_of
from lumiere.paperworld.judge.judge import judge, score
from lumiere.paperworld.world.captions import canonical

FRAMES = 16


def measures(clip: np.ndarray) -> tuple[float, float]:
    """Returns the mean change from frame to frame, and the change from the last to the first frame."""
    changes = np.abs(clip.astype(float) - np.roll(clip, 1, 0)).mean((1, 2, 3))
    return changes[1:].mean(), changes[0]


def main(count: int) -> None:
    studio, found = Studio(None, SEED), {}
    for loop in (False, True):
        rows = []
        for index in range(count):
            scene, _ = scene_of(SEED, index)
            clip = studio.clip(canonical(scene), FRAMES, index, loop=loop)
            rows.append((*measures(clip), score(scene, judge(clip))["all"]))
        found[loop] = np.array(rows, float)
    print(f"| {count} prompts | clips | loops |\n|---|---|---|")
    plain, loops = found.values()
    ratios = [(rows[:, 1] / rows[:, 0]).mean() for rows in (plain, loops)]
    print(f"| change from last to first frame / mean change | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    print(f"| right in all | {plain[:, 2].sum():.0f} | {loops[:, 2].sum():.0f} |")
    print(f"| amount of motion | 1 | {(loops[:, 0] / plain[:, 0]).mean():.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
