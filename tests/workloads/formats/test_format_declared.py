"""What a client declares is never less than what it gets, and the notes say where it comes from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.declared import declare_max_tokens, with_max_tokens
from workloads.trace import Trace

LENGTHS = st.lists(st.integers(1, 10**6), min_size=1, max_size=20).map(np.array)


@given(LENGTHS)
def test_auto_is_the_least_power_of_two_that_no_reply_exceeds(output_tokens: np.ndarray) -> None:
    declared, sentence = declare_max_tokens(output_tokens)
    (constant,) = set(declared.tolist())
    assert constant.bit_count() == 1
    assert constant / 2 < output_tokens.max() <= constant
    assert "no reply exceeds" in sentence


@given(LENGTHS, st.decimals(1, 100, places=3))
def test_a_factor_is_rounded_up_exactly(output_tokens: np.ndarray, factor: object) -> None:
    declared, _ = declare_max_tokens(output_tokens, f"x{factor}")
    thousandths = int(str(factor).replace(".", ""))
    assert declared.tolist() == [-(-length * thousandths // 1000) for length in output_tokens.tolist()]


def test_a_constant_must_hold_every_reply() -> None:
    output_tokens = np.array([5, 100, 300, 200])
    assert declare_max_tokens(output_tokens, "300")[0].tolist() == [300] * 4
    with pytest.raises(ValueError, match=r"max_tokens is 64, but request 1 really gets 100 tokens; .* 300"):
        declare_max_tokens(output_tokens, 64)


@pytest.mark.parametrize("rule", ["", "x", "x0.5", "xnan", "xinf", "x1e9", "-5", "1.5", "ten", "Oracle"])
def test_other_rules_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="max_tokens rule is"):
        declare_max_tokens(np.array([1]), rule)


def test_a_new_rule_replaces_the_note_of_the_old() -> None:
    output_tokens = np.array([3, 9])
    declared, sentence = declare_max_tokens(output_tokens)
    trace = Trace(np.zeros(2), output_tokens, output_tokens, declared, notes=("kept", sentence))
    again = with_max_tokens(trace, "oracle")
    assert again.max_tokens.tolist() == [3, 9]
    assert again.notes[0] == "kept"
    assert len(again.notes) == 2
    assert "oracle" in again.notes[1]
