"""KV memory with the radix tree of SGLang: any beginning of a stored text can be found, and whole leaves are given up.

Written from descriptions: the published Python was read, and no server was recorded. The tree alone was driven at
random beside the published module, with a stand-in for its tensors: hits, evictions and free pages agreed in 1,000
runs.
Source: sglang 0.5.23, srt/mem_cache/radix_cache.py, evict_policy.py and common.py. Left out: its segmented and
tail-optimised policies, priorities, memory of the host, and sliding windows.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from sim.scheduling.radix_tree import Node, attach, descend, detach, new_root, split
from sim.scheduling.sequence import Sequence

EVICTION: dict[str, Callable[[Node], Any]] = {
    "lru": lambda node: node.used,
    "lfu": lambda node: (node.hits, node.used),
    "fifo": lambda node: node.created,
    "mru": lambda node: -node.used,
    "filo": lambda node: -node.created,
}
"""The leaf with the smallest of these is given up first."""


class RadixCache:
    """A pool of pages, of one token unless said otherwise, and a tree of what has been stored in them.

    A chunk of a prompt is stored when it has run, a reply when it is complete. What is in the tree already is given
    back then, and the sequence uses what is there. A sequence keeps all of the tree in use that its text passes
    through, so that a node which nobody uses has nothing in use behind it. When pages are short, leaves that nobody
    uses are given up whole, until there are enough or more; their parents become leaves.

    What an iteration needs is taken after all its prompts have found what they can use (`settle`).

    Attributes
    ----------
    total, free, block_tokens, content_tokens : see `Pool`; a block is a page.
    evicted : pages that were given up so far.
    """

    __slots__ = (
        "_clock",
        "_leaves",
        "_matched",
        "_name",
        "_number",
        "_order",
        "_root",
        "_spare",
        "block_tokens",
        "content_tokens",
        "evicted",
        "free",
        "total",
    )

    def __init__(self, blocks: int, block_tokens: int, eviction: str = "lru") -> None:
        """Start empty.

        Raises
        ------
        ValueError
            If `eviction` is not one of `EVICTION`.
        """
        if eviction not in EVICTION:
            raise ValueError(f"eviction is {eviction!r}; allowed: {', '.join(EVICTION)}")
        self.total = self.free = self._spare = blocks
        self.block_tokens = block_tokens
        self.content_tokens = 1
        self.evicted = 0
        self._name = eviction
        self._order = EVICTION[eviction]
        self._root = new_root()
        self._root.users = 1
        self._leaves: list[tuple[Any, int, Node]] = []
        self._number = self._clock = 0
        self._matched: tuple[Node, int] = self._root, 0

    # What every pool offers.

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many leading tokens of the sequence are computed, and how many pages in use hold them.

        Looking counts as use, whether the sequence is admitted or not, and cuts a node where the text leaves it. At
        least one token is always left to compute.
        """
        nodes, position = self._walk(sequence, sequence.prompt + sequence.generated - 1)
        self._matched = nodes[-1] if nodes else self._root, position
        used = sum(self._pages(node) for node in nodes if node.users)
        return position, used

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its first `blocks` pages, those found first; call `match` just before."""
        node, position = self._matched
        self._lock(node)
        sequence.held = [(node, 0)]
        sequence.registered = position
        self.take(blocks - position // self.block_tokens)

    def extend(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a sequence in the middle of its prompt `blocks` more pages."""
        self.take(blocks)

    def fill(self, sequence: Sequence, findable: int) -> None:
        """Do nothing: what is decoded is stored when the reply is complete."""

    def take(self, blocks: int) -> None:
        """Take free pages; what has to be given up for them is decided when the iteration is complete."""
        self.free -= blocks
        self._spare -= blocks

    def release(self, sequence: Sequence, *, findable: int, keep: bool) -> None:
        """Take back the pages of a sequence; its text is stored unless it was preempted."""
        self.settle()
        if not keep:
            self.store(sequence, findable)
        size = self.block_tokens
        own = -(-max(sequence.computed, sequence.allocated) // size) - sequence.registered // size
        self._spare += own
        self.free += own
        self._unlock(sequence.held[0][0])
        sequence.held = []
        sequence.registered = 0

    def is_written(self, sequence: Sequence) -> bool:
        """Whether decoding could let this waiting sequence in: no, nothing is stored before its end."""
        return False

    # What only this pool offers.

    def settle(self) -> None:
        """Give up leaves until there are as many pages as were taken."""
        leaves = self._leaves
        while self._spare < 0:
            key, _, node = heappop(leaves)
            if node.users or node.children or node.parent is None:
                continue
            if self._order(node) != key:
                self._note_leaf(node)
                continue
            parent = node.parent
            detach(node, self.block_tokens)
            pages = self._pages(node)
            self._spare += pages
            self.evicted += pages
            if not (parent.children or parent.users):
                self._note_leaf(parent)

    def store(self, sequence: Sequence, tokens: int) -> None:
        """Let others find the first `tokens` tokens of a sequence, in whole pages."""
        self.settle()
        size = self.block_tokens
        upto = tokens - tokens % size
        before, stored = sequence.held[0]
        nodes, position = self._walk(sequence, upto)
        last = nodes[-1] if nodes else self._root
        double = (position - sequence.registered) // size
        self._spare += double
        self.free += double
        if position < upto:
            self._clock += 1
            node = Node(sequence.path, sequence.index, position, upto)
            node.used = node.created = self._clock
            attach(last, node, size)
            nodes.append(node)
            self.free += self._pages(node)
            last = node
        boundary = sequence.prompt - sequence.prompt % size
        for node in nodes:
            if node.end > stored:
                node.hits += 1
            if node.start < boundary < node.end:
                # A reply can be given up without its prompt.
                self._split(node, boundary)
        self._lock(last)
        self._unlock(before)
        sequence.held = [(last, max(stored, upto))]
        sequence.registered = upto

    def cached_blocks(self) -> int:
        """Return how many pages can be given up."""
        return self.free - self._spare

    # The tree.

    def _walk(self, sequence: Sequence, limit: int) -> tuple[list[Node], int]:
        """Return the nodes that hold the longest stored beginning, cut where it ends, and its tokens."""
        self._clock += 1
        nodes, position, _ = descend(self._root, sequence, limit, self.block_tokens)
        for node in nodes:
            node.used = self._clock
            if self._name == "mru" and not (node.users or node.children):
                self._note_leaf(node)
        if nodes and nodes[-1].end > position:
            nodes[-1] = self._split(nodes[-1], position)
        return nodes, position

    def _split(self, node: Node, at: int) -> Node:
        front = split(node, at, self.block_tokens)
        front.front = node.front = None  # who uses a node uses all in front of it
        self._clock += 1
        front.hits = node.hits
        front.used = front.created = self._clock
        return front

    def _lock(self, node: Node | None) -> None:
        while node is not self._root:
            assert node is not None
            if not node.users:
                self.free -= self._pages(node)
            node.users += 1
            node = node.parent

    def _unlock(self, node: Node | None) -> None:
        while node is not self._root:
            assert node is not None
            node.users -= 1
            if not node.users:
                self.free += self._pages(node)
                if not node.children:
                    self._note_leaf(node)
            node = node.parent

    def _note_leaf(self, node: Node) -> None:
        self._number += 1
        heappush(self._leaves, (self._order(node), self._number, node))

    def _pages(self, node: Node) -> int:
        return (node.end - node.start) // self.block_tokens
