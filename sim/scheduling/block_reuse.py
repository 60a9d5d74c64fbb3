"""KV blocks with the block reuse of TensorRT-LLM: a tree of blocks, found in whole and in part, given up in turn.

Written from descriptions: the published C++ was read and nothing of it was run or recorded.
Source: NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp and evictionPolicy.cpp of 2025, and
docs/source/kv_cache_reuse.md of 0.11 for the older rule. Left out: priorities other than the default, so that there is
one queue; blocks in the memory of the host; beams.
"""

from __future__ import annotations

from collections import OrderedDict

from sim.scheduling.radix_tree import Key, Node, attach, common_tokens, descend, detach, name_at, new_root, split
from sim.scheduling.sequence import Sequence


class BlockReuse:
    """A pool of KV blocks in which a tree keeps what was stored, one block for each content.

    Blocks that nobody uses form a queue: those never used in front, then all others in the order in which they were
    given back, the last of a sequence first, whether they can be found or not. A block that is needed is taken from
    the front. As children are given back before their parents, that is a leaf of the tree, with one exception: a block
    that came behind content which somebody else had stored in the meantime does not keep that content in use. If it is
    taken all the same, nothing behind it can be found any more.

    Of a text's first block that cannot be found whole, what is equal at its beginning is found in another block, which
    is copied, or taken over if it is a leaf and nobody uses it.

    Attributes
    ----------
    total, free, block_tokens, content_tokens : see `Pool`.
    evicted : blocks that could be found and were given up so far.
    """

    __slots__ = (
        "_ignores_use",
        "_matched",
        "_partial",
        "_queue",
        "_root",
        "_stores_prompts",
        "_unused",
        "block_tokens",
        "content_tokens",
        "evicted",
        "free",
        "total",
    )

    def __init__(self, blocks: int, block_tokens: int, *, only_at_end: bool = False) -> None:
        """Start empty.

        With `only_at_end`, as in 0.8 to 0.11, a prompt is stored when its reply is complete and not before, and the
        test for free blocks ignores what is found.
        """
        self.total = self.free = self._unused = blocks
        self.block_tokens = block_tokens
        self.content_tokens = 1
        self.evicted = 0
        self._stores_prompts = not only_at_end
        self._ignores_use = only_at_end
        self._root = new_root()
        self._queue: OrderedDict[Node, None] = OrderedDict()
        self._matched: tuple[list[Node], int] = [], 0
        self._partial: Node | None = None

    # What every pool offers.

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many leading tokens of the sequence are computed, and how many blocks in use hold them.

        At least one token is always left to compute. A block found in part costs one, whether copied or taken over.
        """
        limit = sequence.prompt + sequence.generated - 1
        nodes, position, exact = descend(self._root, sequence, limit, self.block_tokens)
        self._matched = nodes, position
        self._partial = None
        used = 0
        if not self._ignores_use:
            for node in nodes:
                if node.users:
                    used += (min(node.end, position) - node.start) // self.block_tokens
        return self._match_partly(sequence, exact, limit), used

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its first `blocks` blocks, those found first; call `match` just before."""
        (nodes, position), partial = self._matched, self._partial
        for node in nodes:
            if node.end > position:
                node = split(node, position, self.block_tokens, note_start=True)
            elif not node.users:
                del self._queue[node]
            if not node.users:
                self.free -= self._blocks(node)
            node.users += 1
            sequence.held.append((node, node.start))
        sequence.registered = position
        held = position // self.block_tokens
        if partial is not None and self._take_over(partial, position):
            held += 1
        self.take(blocks - held)

    def extend(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a sequence in the middle of its prompt `blocks` more blocks."""
        self.take(blocks)

    def fill(self, sequence: Sequence, findable: int) -> None:
        """Do nothing: what is decoded is stored when the reply is complete."""

    def take(self, blocks: int) -> None:
        """Take free blocks: those never used, then those given back longest ago."""
        self.free -= blocks
        self._unused -= blocks
        while self._unused < 0:
            node = next(iter(self._queue))
            here = self._blocks(node)
            taken = min(here, -self._unused)
            if node.parent is not None:
                self.evicted += taken + self._drop_behind(node)
            if taken < here:
                node.end = node.start + (here - taken) * self.block_tokens
            else:
                del self._queue[node]
                if node.parent is not None:
                    detach(node, self.block_tokens)
            self._unused += taken

    def release(self, sequence: Sequence, *, findable: int, keep: bool) -> None:
        """Take back the blocks of a sequence, the last one first, and store what they hold.

        A partial one, too, unless it ends in the middle of a prompt.
        """
        is_whole = findable >= sequence.tokens - 1
        self._store(sequence, findable if is_whole else findable - findable % self.block_tokens)
        stored = -(-sequence.registered // self.block_tokens)
        blocks = -(-max(sequence.computed, sequence.allocated) // self.block_tokens)
        if blocks > stored:
            size = self.block_tokens
            self._give_back(Node((), sequence.index, stored * size, blocks * size))
        for node, start in reversed(sequence.held):
            while True:
                front = node.front
                node.users -= 1
                is_first = node.start == start
                if not node.users:
                    node.front = None
                    self._give_back(node)
                if is_first:
                    break
                assert front is not None
                node = front
        sequence.held = []
        sequence.registered = 0

    def is_written(self, sequence: Sequence) -> bool:
        """Whether decoding could let this waiting sequence in: no, nothing is stored before its end."""
        return False

    # What only this pool offers.

    def store(self, sequence: Sequence, tokens: int) -> None:
        """Let others find the full blocks of a prompt when all of it is computed, except for its last token."""
        if self._stores_prompts and tokens >= sequence.prompt:
            written = tokens - 1
            self._store(sequence, written - written % self.block_tokens)

    def first_missing(self, sequence: Sequence) -> Key | None:
        """Return what the first full block of a waiting prompt that is not stored is called, None if all are."""
        size, tokens = self.block_tokens, sequence.tokens
        _, position, _ = descend(self._root, sequence, tokens, size)
        if position + size > tokens:
            return None
        return name_at(sequence.path, sequence.index, position + size), position + size

    def cached_blocks(self) -> int:
        """Return how many blocks can be found."""

        def stored(node: Node) -> int:
            return self._blocks(node) + sum(stored(child) for child in node.children.values())

        return stored(self._root)

    # The tree.

    def _match_partly(self, sequence: Sequence, exact: int, limit: int) -> int:
        """Choose the block to be found in part behind what was found whole; return the tokens that makes in all."""
        nodes, position = self._matched
        if nodes and nodes[-1].end > position:
            if exact > position:
                self._partial = nodes[-1]
            return exact
        parent = nodes[-1] if nodes else self._root
        if limit == position:
            return position
        path, own, end = sequence.path, sequence.index, min(limit, position + self.block_tokens)
        whole = parent.children.get((name_at(path, own, limit), limit))
        if whole is not None:
            self._partial = whole
            return limit
        best = position
        if parent.starts is None:
            return best
        for run in reversed(path):
            if run.first >= end:
                continue
            if run.last <= position or best > position:
                break
            for key in parent.starts.get(run, ()):
                child = parent.children[key]
                found = common_tokens(child, path, own, min(child.end, end))
                if found > best:
                    best, self._partial = found, child
                    if best >= min(run.last, end):
                        break
        return best

    def _take_over(self, node: Node, position: int) -> bool:
        """Make the block at `position`, found in part, the finder's own, if nobody uses it and nothing is behind."""
        if node.users or node.children or node.end > position + self.block_tokens:
            return False
        self.free -= 1
        if node.start == position:
            detach(node, self.block_tokens)
            del self._queue[node]
        else:
            node.end = position
        return True

    def _store(self, sequence: Sequence, upto: int) -> None:
        """Put what the first `upto` tokens are held in into the tree where the tree has nothing equal."""
        size = self.block_tokens
        if upto > sequence.registered:
            own = Node(sequence.path, sequence.index, sequence.registered, upto, 1)
            sequence.held.append((own, own.start))
            sequence.registered = upto
        nodes, position, exact = descend(self._root, sequence, upto, size)
        if position >= upto:
            return
        parent = self._root
        if nodes:
            parent = nodes[-1]
            if parent.end > position:
                if exact == upto == parent.end:
                    return  # the same tail
                parent = self._split(parent, position)
        for piece in _pieces(sequence):
            if piece.end <= position:
                continue
            if piece.start < position:
                self._split(piece, position)
            if piece.end - piece.start < size and parent.children.get(
                (name_at(piece.path, piece.own, piece.end), piece.end)
            ):
                return  # the same tail
            attach(parent, piece, size, note_start=True)
            parent = piece

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two and return the front, which in the queue comes right after the part behind."""
        front = split(node, at, self.block_tokens, note_start=True)
        if node in self._queue:
            order = list(self._queue)
            later = order[order.index(node) + 1 :]
            self._queue[front] = None
            for other in later:
                self._queue.move_to_end(other)
        return front

    def _drop_behind(self, node: Node) -> int:
        """Take everything behind a node out of the tree; return how many blocks that were."""
        dropped = 0
        for child in list(node.children.values()):
            dropped += self._blocks(child) + self._drop_behind(child)
            detach(child, self.block_tokens)
        return dropped

    def _give_back(self, node: Node) -> None:
        self._queue[node] = None
        self.free += self._blocks(node)

    def _blocks(self, node: Node) -> int:
        return -(-(node.end - node.start) // self.block_tokens)


def _pieces(sequence: Sequence) -> list[Node]:
    """Return the nodes that a sequence holds, from the beginning of its text."""
    pieces: list[Node] = []
    for node, start in reversed(sequence.held):
        pieces.append(node)
        while node.start > start:
            assert node.front is not None
            node = node.front
            pieces.append(node)
    pieces.reverse()
    return pieces
