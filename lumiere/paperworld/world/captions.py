"""The language of the paper world: canonical captions, paraphrases, partial captions.

The first wording of each list is canonical. Motions are (present participle, third person) pairs.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeVar

import numpy as np
from numpy.random import Generator

from lumiere.paperworld.world.scene import Scene

Truth = dict[str, str | None]  # attribute -> value, None for an attribute that is not named
Wording = str | tuple[str, str]
T = TypeVar("T")


class FirstFrameRule(TypedDict):
    """How a prompt is rewritten for its first frame: phrases to replace, words to append."""

    replace: dict[str, str]
    append: str


COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "black": ("black", "charcoal"),
}
SUBJECT_WORDS = {
    "ball": ("ball", "sphere"),
    "star": ("star",),
    "heart": ("heart",),
    "ring": ("ring", "hoop"),
    "box": ("box", "parcel", "present"),
    "moon": ("moon", "crescent"),
    "fish": ("fish",),
    "mushroom": ("mushroom", "toadstool"),
}
BACKGROUND_PHRASES = {
    "hills": (
        "over green hills",
        "above the meadow",
        "over rolling hills",
        "in the countryside",
        "above grassy hills",
    ),
    "sea": ("over the sea", "above the waves", "over the ocean", "at sea", "on the water"),
    "night": ("at night", "in the night sky", "under the stars", "in the dark", "at midnight"),
    "city": ("in the city", "over the rooftops", "above the town", "over the skyline", "downtown"),
    "desert": ("in the desert", "over sand dunes", "above the dunes", "over the sand"),
    "snow": ("over snowy mountains", "in the snow", "above snowy peaks", "in winter", "over white mountains"),
    "forest": (
        "in the forest",
        "in the woods",
        "among the pines",
        "over the trees",
        "in front of pine trees",
    ),
}
MOTION_PHRASES = {
    "still": (
        ("standing still", "stands still"),
        ("resting", "rests"),
        ("not moving", "does not move"),
        ("waiting", "waits"),
    ),
    "left": (
        ("drifting left", "drifts left"),
        ("moving left", "moves left"),
        ("gliding to the left", "glides to the left"),
        ("floating leftwards", "floats leftwards"),
        ("flying left", "flies left"),
    ),
    "right": (
        ("drifting right", "drifts right"),
        ("moving right", "moves right"),
        ("gliding to the right", "glides to the right"),
        ("floating rightwards", "floats rightwards"),
        ("flying right", "flies right"),
    ),
    "rising": (
        ("rising", "rises"),
        ("floating up", "floats up"),
        ("drifting upwards", "drifts upwards"),
        ("climbing", "climbs"),
        ("moving up", "moves up"),
    ),
    "falling": (
        ("falling", "falls"),
        ("sinking", "sinks"),
        ("dropping down", "drops down"),
        ("drifting downwards", "drifts downwards"),
        ("moving down", "moves down"),
    ),
    "bouncing": (
        ("bouncing", "bounces"),
        ("hopping", "hops"),
        ("jumping up and down", "jumps up and down"),
        ("jumping", "jumps"),
    ),
    "circling": (
        ("circling", "circles"),
        ("going in circles", "goes in circles"),
        ("orbiting", "orbits"),
        ("moving in a circle", "moves in a circle"),
    ),
    "spinning": (
        ("spinning", "spins"),
        ("rotating", "rotates"),
        ("turning around", "turns around"),
        ("twirling", "twirls"),
    ),
    "pulsing": (
        ("pulsing", "pulses"),
        ("growing and shrinking", "grows and shrinks"),
        ("throbbing", "throbs"),
        ("beating", "beats"),
    ),
}
SPEED_WORDS = {"slow": ("slowly", "gently", "lazily"), "fast": ("fast", "quickly", "rapidly")}
OPENINGS = ("", "", "a paper cartoon of ", "a clip of ", "a picture of ", "here is ")
ATTRIBUTES: dict[str, Mapping[str, Sequence[Wording]]] = {
    "colour": COLOUR_WORDS,
    "subject": SUBJECT_WORDS,
    "background": BACKGROUND_PHRASES,
    "motion": MOTION_PHRASES,
    "speed": SPEED_WORDS,
}


def canonical(scene: Scene, with_speed: bool = False) -> str:
    """Returns the canonical caption, such as "a red ball bouncing over green hills".

    Args:
        scene: the scene to describe.
        with_speed: add "slowly" or "fast" after the motion, except for still scenes.
    """
    colour, subject = COLOUR_WORDS[scene.colour][0], SUBJECT_WORDS[scene.subject][0]
    motion = MOTION_PHRASES[scene.motion][0][0]
    if with_speed and scene.motion != "still":
        motion += " " + SPEED_WORDS[scene.speed][0]
    return f"{_article(colour)} {subject} {motion} {BACKGROUND_PHRASES[scene.background][0]}"


def first_frame_rule() -> FirstFrameRule:
    """Returns the rule that rewrites a prompt for its first frame: motions become "standing still"."""
    (standing, stands), *_ = MOTION_PHRASES["still"]
    phrases = [pair for pairs in MOTION_PHRASES.values() for pair in pairs]
    replace = {word: "" for words in SPEED_WORDS.values() for word in words}
    replace |= {doing: standing for doing, _ in phrases} | {does: stands for _, does in phrases}
    return {"replace": replace, "append": standing}


def vocabulary() -> dict[str, list[str]]:
    """Returns the canonical wordings by kind, for the vocabulary on the page."""
    first = {kind: [wordings[0] for wordings in table.values()] for kind, table in ATTRIBUTES.items()}
    return {
        kind: [word if isinstance(word, str) else word[0] for word in words] for kind, words in first.items()
    }


def paraphrase(scene: Scene, rng: Generator, with_speed: bool = False) -> str:
    """Returns a paraphrased caption with synonyms, another word order and an opening."""

    def pick(options: Sequence[T]) -> T:
        return options[int(rng.integers(len(options)))]

    thing = f"{_article(pick(COLOUR_WORDS[scene.colour]))} {pick(SUBJECT_WORDS[scene.subject])}"
    doing, does = pick(MOTION_PHRASES[scene.motion])
    place = pick(BACKGROUND_PHRASES[scene.background])
    adverb = f" {pick(SPEED_WORDS[scene.speed])}" if with_speed and scene.motion != "still" else ""
    order = rng.integers(6)
    if order == 0:
        return f"{pick(OPENINGS)}{thing} {doing}{adverb} {place}"
    if order == 1:
        return f"{place}, {thing} {doing}{adverb}"
    if order == 2:
        return f"{thing} {does}{adverb} {place}"
    if order == 3:
        return f"{thing} {place}, {doing}{adverb}"
    if order == 4:
        return f"{place} {thing} is{adverb} {doing}" if adverb else f"{place} {thing} {does}"
    return f"{pick(OPENINGS)}{_article(f'{adverb} {doing}'.strip())} {' '.join(thing.split()[1:])} {place}"


def wordings(scene: Scene, count: int = 8) -> list[str]:
    """Returns the canonical captions, without and with speed, then paraphrases.

    Args:
        scene: the scene to describe; its seed determines the paraphrases.
        count: number of paraphrases.
    """
    rng = np.random.default_rng(scene.seed)
    plain = [canonical(scene)] + ([canonical(scene, with_speed=True)] if scene.motion != "still" else [])
    return plain + [paraphrase(scene, rng, with_speed=i % 2 == 1) for i in range(count)]


def caption_with_truth(scene: Scene, rng: Generator) -> tuple[str, Truth]:
    """Returns a training caption and its truth: attribute -> value, None for omitted attributes.

    About half of the captions are canonical and half paraphrased; half name the speed; some omit attributes.
    """
    with_speed = rng.random() < 0.5 and scene.motion != "still"
    truth = {name: getattr(scene, name) for name in ATTRIBUTES}
    if not with_speed:
        truth["speed"] = None
    if rng.random() < 0.15:
        return _partial(scene, rng, truth)
    text = paraphrase(scene, rng, with_speed) if rng.random() < 0.6 else canonical(scene, with_speed)
    return text, truth


def _partial(scene: Scene, rng: Generator, truth: Truth) -> tuple[str, Truth]:
    colour, subject = (
        str(rng.choice(words[getattr(scene, name)]))
        for name, words in (("colour", COLOUR_WORDS), ("subject", SUBJECT_WORDS))
    )
    parts = {
        "colour": colour,
        "motion": str(rng.choice(MOTION_PHRASES[scene.motion], axis=0)[0]),
        "background": str(rng.choice(BACKGROUND_PHRASES[scene.background])),
    }
    truth["speed"] = None
    for name in list(parts):
        if rng.random() < 0.5:
            parts[name], truth[name] = "", None
    thing = _article(" ".join((parts["colour"], subject)).strip())
    return " ".join(" ".join((thing, parts["motion"], parts["background"])).split()), truth


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def known_words() -> list[str]:
    """Returns all words that captions may contain, sorted."""
    texts = [text for table in ATTRIBUTES.values() for wordings in table.values() for text in wordings]
    flat = [" ".join(text) if isinstance(text, tuple) else text for text in texts]
    return sorted(
        set(" ".join((*flat, *OPENINGS)).split())
        | {"a", "an", "the", "is", "and", "of", "in", "over", "at", "with", "on"}
    )
