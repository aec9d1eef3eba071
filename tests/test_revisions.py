"""Which steps are run again, without a model."""

from lumiere.revisions import passes

STEPS = [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


def test_revisions_are_from_the_first_timestep_down_to_the_first_below_the_last_pass_ends_the_clip():
    assert passes(STEPS, 850, 600, 0) == [slice(0, 10)]
    assert passes(STEPS, 850, 600, 1) == [slice(0, 5), slice(2, 10)]
    assert passes(STEPS, 850, 600, 3) == [slice(0, 5), slice(2, 5), slice(2, 5), slice(2, 10)]
    assert passes(STEPS, 799, 599, 1) == [slice(0, 6), slice(2, 10)], "both ends belong to it"


def test_without_a_step_between_there_is_one_pass():
    assert passes([999], 850, 600, 2) == [slice(0, 1)]
    assert passes([999, 499], 850, 600, 2) == [slice(0, 2)], "the one step below would only be repeated"
    assert passes([999, 749, 499, 249], 850, 600, 1) == [slice(0, 3), slice(1, 4)]
    assert passes(STEPS, 850, 0, 2) == [slice(0, 10)], "guidance that never ends leaves no end of a pass"
