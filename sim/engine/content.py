"""Which KV blocks of a trace can be shared, as a tree of runs through which exactly the same requests pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from workloads.trace import Segments, Trace

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ContentTree:
    """Runs of blocks that at least two requests share, parents before children.

    Attributes
    ----------
    first, last : (runs,) block range of the run in every request that passes through it; `last` is exclusive.
    parent : (runs,) the run before it, or -1.
    deepest : (requests,) the last shared run of each request, or -1; its ancestors are the path.
    """

    first: Integers
    last: Integers
    parent: Integers
    deepest: Integers

    @cached_property
    def rows(self) -> list[tuple[int, int, int]]:
        """First, last and parent of each run as plain numbers, which are faster to look up one by one."""
        return list(zip(self.first.tolist(), self.last.tolist(), self.parent.tolist(), strict=True))


@lru_cache(maxsize=4)
def content_tree(trace: Trace, block_tokens: int) -> ContentTree:
    """Find the shared runs of a trace for KV blocks of `block_tokens` tokens.

    A block is shared if everything up to its end is equal, so it belongs to the node of the token tree that holds its
    last token. The trees of the last few traces are remembered, since several arms usually replay the same trace.
    """
    nodes = _token_tree(*_cut_at_boundaries(_with_own_text(trace)))
    shared = nodes.requests >= 2
    first, last = nodes.start // block_tokens, nodes.end // block_tokens
    useful = shared & (last > first)
    # Skip nodes that hold no whole block: their children hang on the nearest ancestor that does.
    kept = np.full(len(useful) + 1, -1, dtype=np.int64)
    kept[:-1][useful] = np.arange(useful.sum())
    nearest = np.full(len(useful) + 1, -1, dtype=np.int64)
    for node in range(len(useful)):
        nearest[node] = kept[node] if useful[node] else nearest[nodes.parent[node]]
    parent = np.array([nearest[p] for p in nodes.parent[useful]], dtype=np.int64)
    return ContentTree(first[useful], last[useful], parent, nearest[nodes.deepest])


@dataclass(frozen=True)
class _Nodes:
    """Nodes of the token tree: token range, how many requests pass, parent; and the last node of each request."""

    start: Integers
    end: Integers
    requests: Integers
    parent: Integers
    deepest: Integers


def _with_own_text(trace: Trace) -> Segments:
    """Add a request's own text as a last segment where a later request quotes it."""
    segments = trace.segments
    assert segments is not None
    quoted = np.unique(-1 - segments.key[segments.key < 0])
    if not len(quoted):
        return segments
    lengths = np.diff(segments.offsets)
    covered = np.bincount(np.repeat(np.arange(len(trace)), lengths), segments.length, len(trace)).astype(np.int64)
    # The last token of a reply is never written to the KV cache.
    written = trace.prompt_tokens + trace.output_tokens - 1
    at = segments.offsets[quoted + 1]
    offsets = segments.offsets.copy()
    offsets[1:] += np.cumsum(np.bincount(quoted, minlength=len(trace))).astype(np.int64)
    return Segments(
        offsets,
        np.insert(segments.key, at, -1 - quoted),
        np.insert(segments.start, at, covered[quoted]),
        np.insert(segments.length, at, (written - covered)[quoted]),
    )


def _cut_at_boundaries(segments: Segments) -> tuple[Integers, Integers, Integers]:
    """Cut every segment where any other segment of the same text begins or ends, so that equal pieces are equal rows.

    Returns offsets (requests + 1,), and for each piece a number that is the same where its tokens are, and its length.
    """
    start, end = segments.start, segments.start + segments.length
    # One number for a position in a text: texts are numbered, and none is longer than `width`.
    _, text = np.unique(segments.key, return_inverse=True)
    width = int(end.max(initial=0)) + 1
    edges = np.unique(np.concatenate([text * width + start, text * width + end]))
    low = np.searchsorted(edges, text * width + start)
    pieces = np.searchsorted(edges, text * width + end) - low
    row = np.repeat(np.arange(len(text)), pieces)
    piece = low[row] + np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    ends = np.concatenate([[0], np.cumsum(pieces)])
    return ends[segments.offsets], piece, edges[piece + 1] - edges[piece]


def _token_tree(offsets: Integers, piece: Integers, length: Integers) -> _Nodes:
    """Merge equal beginnings, one piece after another, joining a node with its parent where the same requests pass."""
    depth_of = np.diff(offsets)
    parent, start, end, passing, head = (np.zeros(len(piece), dtype=np.int64) for _ in range(5))
    kinds = int(piece.max(initial=0)) + 1
    at_node = np.full(len(depth_of), -1, dtype=np.int64)
    alive = np.arange(len(depth_of))
    size = 0
    for depth in range(int(depth_of.max(initial=0))):
        alive = alive[depth_of[alive] > depth]
        row = offsets[alive] + depth
        _, example, node, count = np.unique(
            (at_node[alive] + 1) * kinds + piece[row], return_index=True, return_inverse=True, return_counts=True
        )
        new = slice(size, size + len(count))
        before = at_node[alive][example]
        parent[new] = before
        start[new] = np.where(before >= 0, end[before], 0)
        end[new] = start[new] + length[row][example]
        passing[new] = count
        follows = (before >= 0) & (passing[before] == count)
        head[new] = np.where(follows, head[before], np.arange(new.start, new.stop))
        at_node[alive] = size + node
        size += len(count)
    np.maximum.at(end, head[:size], end[:size])
    kept = np.flatnonzero(head[:size] == np.arange(size))
    number = np.full(size + 1, -1, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    number = number[np.append(head[:size], size)]  # index -1, for nothing, gives -1
    return _Nodes(start[kept], end[kept], passing[kept], number[parent[kept]], number[at_node])
