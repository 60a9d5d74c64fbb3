"""A radix tree of stored text: nodes that hold stretches of it, found by the runs that a sequence passes through.

Text is never spelled out. Up to the end of its path a sequence's text is known by the runs of the path, which are the
same objects in every sequence that has the same text; what follows is its own, and known by the sequence's index. Two
sequences that pass through the same run have everything before it in common, so that comparing texts is comparing
runs.
"""

from __future__ import annotations

from sim.scheduling.prefix_cache import Run
from sim.scheduling.sequence import Sequence

Name = Run | int
"""Whose text a token belongs to: the run, or the index of the only sequence that has it."""

Key = Name | tuple[Name, int]
"""What tells a node from others behind the same text: the name of the last token of its first unit, and where it ends
if that is before the unit is full."""


class Node:
    """Tokens `start` to `end` (exclusive) of the text of those who pass through `path`, then of sequence `own`.

    Attributes
    ----------
    parent, children : the stored text before it, None if it is not in the tree, and after it.
    users : sequences that use it.
    starts : keys of the children whose first unit begins in a run, by every run that this unit touches; None if there
        are none, or if nobody wants to know.
    front : the node in front that it was split from while in use: those who hold both have only noted this one.
    used, created, hits : number of the operation that used it last, of the one that made it, and how many sequences
        have stored it.
    """

    __slots__ = (
        "children",
        "created",
        "end",
        "front",
        "hits",
        "own",
        "parent",
        "path",
        "start",
        "starts",
        "used",
        "users",
    )

    def __init__(self, path: tuple[Run, ...], own: int, start: int, end: int, users: int = 0) -> None:
        """Describe a stretch of text that is in no tree yet."""
        self.path = path
        self.own = own
        self.start = start
        self.end = end
        self.users = users
        self.parent: Node | None = None
        self.children: dict[Key, Node] = {}
        self.starts: dict[Run, dict[Key, None]] | None = None
        self.front: Node | None = None
        self.used = self.created = self.hits = 0


def new_root() -> Node:
    """Return the root of a tree in which nothing is stored."""
    return Node((), -1, 0, 0)


def name_at(path: tuple[Run, ...], own: int, tokens: int) -> Name:
    """Return whose text the last of so many tokens is."""
    for run in path:
        if tokens <= run.last:
            return run
    return own


def key_of_node(node: Node, unit: int) -> Key:
    """Return what a node is called among the children of its parent."""
    last = node.start + unit
    if last <= node.end:
        return name_at(node.path, node.own, last)
    return name_at(node.path, node.own, node.end), node.end


def common_tokens(node: Node, path: tuple[Run, ...], own: int, end: int) -> int:
    """Return how many of the first `end` tokens of a node's text are also those of another text."""
    if node.own == own:
        return end
    common = 0
    for ours, theirs in zip(path, node.path, strict=False):
        if ours is not theirs:
            break
        common = ours.last
        if common >= end:
            return end
    return common


def descend(root: Node, sequence: Sequence, limit: int, unit: int) -> tuple[list[Node], int, int]:
    """Find the longest stored beginning of a sequence's text, up to `limit` tokens.

    Returns
    -------
    The nodes that hold it in order, its tokens in whole units, and its tokens to the last one, which may be a few more
    in the last node.
    """
    path, own, node = sequence.path, sequence.index, root
    found: list[Node] = []
    position = exact = depth = 0
    deepest = len(path)
    while position + unit <= limit:
        last = position + unit
        while depth < deepest and path[depth].last < last:
            depth += 1
        child = node.children.get(path[depth] if depth < deepest else own)
        if child is None:
            break
        exact = common_tokens(child, path, own, min(child.end, limit))
        position = exact - exact % unit
        found.append(child)
        if position < child.end:
            break
        node = child
    return found, position, max(exact, position)


def attach(parent: Node, node: Node, unit: int, *, note_start: bool = False) -> None:
    """Store a node behind its parent; `note_start` keeps account of which runs its first unit touches."""
    key = key_of_node(node, unit)
    node.parent = parent
    parent.children[key] = node
    if note_start:
        for run in _first_runs(node, unit):
            if parent.starts is None:
                parent.starts = {}
            parent.starts.setdefault(run, {})[key] = None


def detach(node: Node, unit: int) -> None:
    """Take a node out of the tree; what is stored behind it is the caller's concern."""
    parent = node.parent
    assert parent is not None
    key = key_of_node(node, unit)
    node.parent = None
    del parent.children[key]
    if parent.starts is not None:
        for run in _first_runs(node, unit):
            keys = parent.starts[run]
            del keys[key]
            if not keys:
                del parent.starts[run]


def split(node: Node, at: int, unit: int, *, note_start: bool = False) -> Node:
    """Cut a node in two and return the new one, in front, which has the tokens before `at`."""
    front = Node(node.path, node.own, node.start, at, node.users)
    parent = node.parent
    if parent is not None:
        parent.children[key_of_node(node, unit)] = front
    front.parent = parent
    node.start = at
    if node.users:
        front.front, node.front = node.front, front
    if parent is not None:
        attach(front, node, unit, note_start=note_start)
    return front


def _first_runs(node: Node, unit: int) -> list[Run]:
    """Return the runs that the first unit of a node touches."""
    start, end = node.start, min(node.end, node.start + unit)
    return [run for run in node.path if run.first < end and run.last > start]
