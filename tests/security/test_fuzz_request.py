"""Anything at all as the fields of a request, as saved settings, and as what is sent to the endpoint."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumiere.request import FIRST_FRAMES, MODES, SCHEDULERS, Limits, Request
from tests.security.stranger import sentence

CASES = 10_000
HANG = 2000  # ms
FIELDS = tuple(Request.__dataclass_fields__)
LIMITS = Limits(
    max_frames=16,
    max_side=64,
    max_pixels=16 * 64 * 64,
    default_height=64,
    default_width=64,
    styles=((0.0, 2.0),),
    adapter=True,
    cameras=("zoom-in", "pan-left"),
)
OWN = {"frames": 4, "fps": 8, "height": 64, "width": 64, "steps": 2, "guidance": 1.0, "scheduler": "ddim"}
OWN |= {"cameras": (), "motion_scale": 1.0, "free_noise": False, "free_init": 1}
SLOW = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, -1, 1, 4, 16, 64, 150, 151, 2**32 - 1, 2**32, 1e999, 10**400, 0.5, 4.0, True, False]),
)
texts = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zs"]), max_size=8),
    st.sampled_from(
        [
            "",
            " ",
            "a red ball",
            "x" * 2001,
            "\0",
            "\ud800",
            "<b>",
            "${x}",
            "{{x}}",
            "%s",
            "ddim",
            "0: a | 8: (b:2",
            "((a))",
        ]
    ),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.just("path"), st.text(max_size=6)), inner, max_size=4),
    ),
    max_leaves=8,
)
RIGHT = {  # values that a small clip can have
    "prompt": st.just("a red ball"),
    "negative_prompt": st.just(""),
    "frames": st.sampled_from([4, 8, 16]),
    "height": st.just(64),
    "width": st.just(64),
    "steps": st.integers(1, 2),
    "fps": st.integers(1, 60),
    "guidance": st.floats(0, 30),
    "scheduler": st.sampled_from(SCHEDULERS),
    "seed": st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    "strength": st.just(1.0),
    "mode": st.sampled_from(MODES),
    "first_frame": st.sampled_from(FIRST_FRAMES),
    "style_weights": st.lists(st.floats(0, 2), max_size=1),
    "clip_skip": st.integers(0, 11),
    "cameras": st.dictionaries(st.sampled_from(["zoom-in", "pan-left"]), st.floats(-4, 4)),
    "motion_scale": st.floats(0, 4),
    "free_noise": st.booleans(),
    "free_init": st.integers(1, 10),
    "loop": st.booleans(),
}
WORDS = ("prompt", "negative_prompt", "scheduler", "mode", "first_frame")
likely = {  # often right, so that more than the first field is looked at
    name: st.one_of(right, texts if name in WORDS else numbers, anything) for name, right in RIGHT.items()
}
fields = st.fixed_dictionaries({}, optional=likely)


@pytest.mark.slow
@pytest.mark.soak
@given(fields)
@settings(SLOW, deadline=HANG)
def test_fuzz_fields_of_a_request(values):
    """A request, or a refusal in one sentence; and a request comes back from what it is saved as."""
    try:
        request = Request(**({"prompt": "a"} | values)).filled(OWN).check(LIMITS).with_seed()
    except ValueError as refusal:
        assert type(refusal) is ValueError
        sentence(str(refusal)[:1].upper() + str(refusal)[1:].replace("_", " "))
    else:
        assert Request.from_json(request.to_json()) == request
        assert all(type(getattr(request, name)) in (int, float, str, tuple, bool) for name in FIELDS)
        assert all(0 <= weight <= 2 for weight in request.style_weights)
        assert request.frames * request.height * request.width <= LIMITS.max_pixels


@pytest.mark.slow
@pytest.mark.soak
@given(st.one_of(anything.map(json.dumps), fields.map(json.dumps), st.text(max_size=60)))
@settings(SLOW, deadline=HANG)
def test_fuzz_saved_settings(text):
    try:
        request = Request.from_json(text)
    except ValueError as refusal:
        assert type(refusal) is ValueError and "\n" not in str(refusal) and len(str(refusal)) < 250
    else:
        assert Request.from_json(request.to_json()) == request
