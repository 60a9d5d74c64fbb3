"""The project's own CSV gives back what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import formats
from workloads.formats import plain
from workloads.trace import Segments, Trace


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 20))
    lengths = st.lists(st.integers(1, 10**6), min_size=n, max_size=n)
    seconds = draw(st.lists(st.floats(0, 1e9, allow_subnormal=True), min_size=n, max_size=n))
    output_tokens = np.array(draw(lengths))
    best_of = draw(st.none() | st.lists(st.integers(1, 4), min_size=n, max_size=n))
    session = draw(st.none() | st.lists(st.integers(0, 5), min_size=n, max_size=n))
    return Trace(
        arrival_seconds=np.array(sorted(seconds)),
        prompt_tokens=np.array(draw(lengths)),
        output_tokens=output_tokens,
        max_tokens=output_tokens + np.array(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))),
        session=None if session is None else np.array(session),
        best_of=None if best_of is None else np.array(best_of),
    )


@given(traces())
def test_writing_and_reading_is_the_identity(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> None:
    path = tmp_path_factory.mktemp("plain") / "trace.csv"
    plain.write(trace, path)
    again = formats.read(path)
    for column in ("arrival_seconds", "prompt_tokens", "output_tokens", "max_tokens"):
        written, read = getattr(trace, column), getattr(again, column)
        assert np.array_equal(written, read)
        assert written.dtype == read.dtype
    assert (trace.best_of is None) == (again.best_of is None)
    assert trace.best_of is None or trace.best_of.tolist() == again.best_of.tolist()  # type: ignore[union-attr]
    assert (trace.session is None) == (again.session is None)
    assert trace.session is None or np.array_equal(trace.session, again.session)  # type: ignore[arg-type]
    assert again.notes == ("max_tokens: as the file declares",)


def test_columns_may_stand_in_any_order_and_a_rule_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("output_tokens,max_tokens,prompt_tokens,arrival_seconds\n3,10,2,1\n3,10,2,1\n")
    assert formats.read(path).max_tokens.tolist() == [10, 10]
    assert formats.read(path, max_tokens="oracle").max_tokens.tolist() == [3, 3]
    # Requests that arrive at once on purpose are left alone.
    assert formats.read(path).arrival_seconds.tolist() == [1.0, 1.0]
    assert formats.read(path).name == "mine"
    assert formats.read(path, name="ours").name == "ours"


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    one = np.array([1])
    trace = Trace(np.array([0.0]), one, one, one)
    shared = replace(trace, segments=Segments.from_lists([[(0, 0, 1)]]))
    with pytest.raises(ValueError, match="cannot hold segments"):
        plain.write(shared, tmp_path / "trace.csv")
    with pytest.raises(ValueError, match="cannot hold previous"):
        plain.write(replace(trace, previous=np.array([-1])), tmp_path / "trace.csv")
