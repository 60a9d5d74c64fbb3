"""What a client declares as the longest reply it will take, when a trace records only what came."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import ceil

import numpy as np

from workloads.trace import Integers, Trace

RULES = "'auto', a whole number N (the same for all), 'xF' (F >= 1 times the real reply) or 'oracle' (the real reply)"
SENTENCE = "max_tokens: "
LARGEST_FACTOR = 1_000_000


def declare_max_tokens(output_tokens: Integers, rule: str | int = "auto") -> tuple[Integers, str]:
    """Return the declared longest reply of every request, and the sentence that tells a reader where it comes from.

    Parameters
    ----------
    output_tokens : (requests,) the real replies [tokens].
    rule : ``"auto"``, one constant: the longest real reply rounded up to a power of two; ``N``, that constant;
        ``"xF"``, `F` times the real reply, rounded up; ``"oracle"``, the real reply.

    Raises
    ------
    ValueError
        If the rule is none of these, or if a real reply is longer than the constant `N`.

    >>> declare_max_tokens(np.array([3, 300]))[0]
    array([512, 512])
    >>> declare_max_tokens(np.array([3, 300]), "x1.5")[0]
    array([  5, 450])
    """
    text = str(rule)
    if text == "oracle":
        return output_tokens.copy(), f"{SENTENCE}each client declares exactly the reply it will get (oracle)"
    if text.startswith("x"):
        factor = _factor(text)
        # Exactly: a product such as 1.1 * 10 = 11.000000000000002 must not be rounded up to 12.
        lengths, request = np.unique(output_tokens, return_inverse=True)
        declared = np.array([ceil(factor * length) for length in lengths.tolist()], dtype=np.int64)[request]
        return declared, f"{SENTENCE}each client declares {float(factor):g} times the reply it will get"
    longest = int(output_tokens.max(initial=1))
    if text == "auto":
        constant = 1 << (longest - 1).bit_length()
        why = f"{constant} for every request, a client-wide limit that no reply exceeds (the longest is {longest})"
    else:
        constant = _constant(text, output_tokens)
        why = f"{constant} for every request"
    return np.full(len(output_tokens), constant, dtype=np.int64), SENTENCE + why


def with_max_tokens(trace: Trace, rule: str | int) -> Trace:
    """Return the trace with `max_tokens` declared by another rule (see `declare_max_tokens`), and its note renewed."""
    declared, sentence = declare_max_tokens(trace.output_tokens, rule)
    notes = tuple(note for note in trace.notes if not note.startswith(SENTENCE))
    return replace(trace, max_tokens=declared, notes=(*notes, sentence))


def _factor(text: str) -> Fraction:
    try:
        factor = Decimal(text[1:])
        fits = 1 <= factor <= LARGEST_FACTOR
    except InvalidOperation:  # no number, or not a number
        raise ValueError(f"max_tokens rule is {text!r}; allowed: {RULES}") from None
    if not fits:
        raise ValueError(f"max_tokens rule is {text!r}; allowed: a factor from 1 to {LARGEST_FACTOR:g}")
    return Fraction(factor)


def _constant(text: str, output_tokens: Integers) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"max_tokens rule is {text!r}; allowed: {RULES}")
    constant = int(text)
    longer = output_tokens > constant
    if longer.any():
        first = int(np.argmax(longer))
        raise ValueError(
            f"max_tokens is {constant}, but request {first} really gets {output_tokens[first]} tokens; "
            f"allowed: at least {output_tokens.max()}, the longest reply"
        )
    return constant
