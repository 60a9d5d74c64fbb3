"""Where on a figure a line's name goes: beside its line, on none of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.figures.style import DOTS_PER_INCH, SMALL, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

_PIXELS = DOTS_PER_INCH / 72  # in a point
_AWAY = np.array([4.0, 7.0, 14.0, 24.0, 36.0, 50.0])  # points between line and label
_LEADER = 9.0  # points beyond which a thin line joins the two
_SIDES = np.array([(1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1)], dtype=np.float64)
# What is bad about a place, in points of distance from the line.
_OUTSIDE, _ON_LABEL, _ON_LINE, _ACROSS_LINE, _WITH_LEADER, _NEXT_ANCHOR = 1e5, 1e4, 4.0, 30.0, 12.0, 0.7


@dataclass(frozen=True)
class Label:
    """A text to put beside a line.

    Attributes
    ----------
    line : name of its line.
    text, ink : what to write, in what colour.
    anchors : (n, 2) points of the line to stand at, best first, in the units of the axes.
    """

    line: str
    text: str
    ink: str
    anchors: Floats


def label_lines(axes: Axes, labels: Sequence[Label], lines: Mapping[str, Sequence[Floats]]) -> list[Annotation]:
    """Write each label where it covers no line, no other text, and is not parted from its line by another.

    Parameters
    ----------
    lines : name -> polylines (n, 2) not to cover: the line itself, the edges of its band.
    """
    dense = {
        name: np.concatenate([_dense(axes.transData.transform(part)) for part in parts])
        for name, parts in lines.items()
        if parts
    }
    every = np.concatenate([*dense.values(), np.empty((0, 2))])
    taken = [text.get_window_extent().get_points().ravel() for text in axes.texts]
    notes = []
    for label in labels:
        others = [points for name, points in dense.items() if name != label.line]
        across = np.concatenate(others) if others else np.empty((0, 2))
        anchor, place = _best_place(axes, label, every, across, taken)
        taken.append(place)
        notes.append(_write(axes, label, anchor, place))
    return notes


def _best_place(
    axes: Axes, label: Label, every: Floats, across: Floats, taken: Sequence[Floats]
) -> tuple[Floats, Floats]:
    """Return the anchor [units of the axes] and the box (left, bottom, right, top) [pixels] of least cost."""
    note = axes.annotate(label.text, label.anchors[0], size=SMALL, weight="bold", annotation_clip=False)
    size = np.array(note.get_window_extent().size)
    note.remove()
    points = axes.transData.transform(label.anchors)
    places, owner, cost = _candidates(points, size)
    frame = axes.get_window_extent().get_points()
    outside = (places[:, :2] < frame[0]).any(1) | (places[:, 2:] > frame[1]).any(1)
    cost = cost + _OUTSIDE * outside + _ON_LINE * _covered(places, every)
    for other in taken:
        cost += _ON_LABEL * _overlap(places, other)
    best, least = 0, np.inf
    for i in np.argsort(cost, kind="stable").tolist():
        if cost[i] >= least:
            break
        total = cost[i] + _ACROSS_LINE * _crosses(points[owner[i]], places[i], across)
        if total < least:
            best, least = i, total
    return label.anchors[owner[best]], places[best]


def _crosses(start: Floats, box: Floats, points: Floats) -> bool:
    """Tell whether any point lies between a point and the nearest point of a box."""
    path = start + np.linspace(0.0, 1.0, 8)[:, None] * (np.clip(start, box[:2], box[2:]) - start)
    return bool((np.abs(path[:, None, :] - points[None]).max(axis=2) < 1.2 * _PIXELS).any())


def _candidates(points: Floats, size: Floats) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    """Return boxes (n, 4) around the points, which point each belongs to, and what its distance costs."""
    shift = (_SIDES[:, None, :] * _AWAY[None, :, None] * _PIXELS).reshape(-1, 2)
    corner = np.repeat((np.minimum(_SIDES, 0) - (_SIDES == 0) * 0.5) * size, len(_AWAY), axis=0)
    start = (points[:, None, :] + (shift + corner)[None]).reshape(-1, 2)
    owner = np.repeat(np.arange(len(points)), len(shift))
    distance = np.tile(_AWAY + _WITH_LEADER * (_AWAY > _LEADER), len(points) * len(_SIDES))
    return np.hstack([start, start + size]), owner, distance + _NEXT_ANCHOR * owner


def _covered(boxes: Floats, points: Floats) -> Floats:
    """Return how many points lie in each box, or within a hair of it."""
    margin = 2.5 * _PIXELS
    x, y = points[:, 0], points[:, 1]
    within = (x >= boxes[:, :1] - margin) & (x <= boxes[:, 2:3] + margin)
    within &= (y >= boxes[:, 1:2] - margin) & (y <= boxes[:, 3:4] + margin)
    return np.asarray(within.sum(axis=1), dtype=np.float64)


def _overlap(boxes: Floats, other: Floats) -> Floats:
    apart = (boxes[:, 0] > other[2]) | (boxes[:, 2] < other[0]) | (boxes[:, 1] > other[3]) | (boxes[:, 3] < other[1])
    return np.asarray(~apart, dtype=np.float64)


def _dense(line: Floats, step: float = 4.0) -> Floats:
    """Return points along a polyline, no further apart than `step` pixels."""
    parts = [
        a + (b - a) * np.linspace(0, 1, max(2, int(np.hypot(*(b - a)) / step)))[:, None] for a, b in pairwise(line)
    ]
    return np.concatenate([line[:1], *parts])


def _write(axes: Axes, label: Label, anchor: Floats, place: Floats) -> Annotation:
    pixel = axes.transData.transform(anchor)
    far = float(np.hypot(*(np.clip(pixel, place[:2], place[2:]) - pixel))) > _LEADER * _PIXELS
    leader: dict[str, Any] = {"arrowstyle": "-", "color": label.ink, "lw": 0.6, "shrinkA": 0, "shrinkB": 2}
    # From the point of the box that is nearest, not from its middle.
    nearest = np.clip((pixel - place[:2]) / (place[2:] - place[:2]), 0, 1)
    return axes.annotate(
        label.text,
        (float(anchor[0]), float(anchor[1])),
        xytext=tuple(((place[:2] - pixel) / _PIXELS).tolist()),
        textcoords="offset points",
        size=SMALL,
        weight="bold",
        color=label.ink,
        ha="left",
        va="bottom",
        gid="label",
        arrowprops=leader | {"relpos": tuple(nearest.tolist())} if far else None,
    )
