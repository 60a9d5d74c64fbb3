"""Block reuse that keeps a record of every block and compares tokens: the rules of TensorRT-LLM at their plainest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

Text = tuple[Hashable, ...]


@dataclass(eq=False)
class Block:
    """A block: what it holds, if it can be found, what it is stored behind, and who uses it."""

    text: Text = ()
    parent: Block | None = None
    children: dict[Text, Block] = field(default_factory=dict)
    users: int = 0


class PlainReuse:
    """All blocks, the tree of those that can be found, and the queue of those that nobody uses."""

    def __init__(self, blocks: int, block_tokens: int, symbols: list[list[Hashable]], *, only_at_end: bool) -> None:
        self.size = block_tokens
        self.symbols = symbols
        self.only_at_end = only_at_end
        self.root = Block()
        self.queue: OrderedDict[Block, None] = OrderedDict((Block(), None) for _ in range(blocks))
        self.held: dict[int, list[Block]] = {}
        self.evicted = 0

    @property
    def free(self) -> int:
        return len(self.queue)

    def chop(self, request: int, tokens: int) -> list[Text]:
        text = self.symbols[request][:tokens]
        return [tuple(text[at : at + self.size]) for at in range(0, tokens, self.size)]

    def match(self, request: int, tokens: int) -> tuple[list[Block], Block | None, int]:
        """Return the blocks found whole, the one found in part, and the tokens that makes."""
        found: list[Block] = []
        node = self.root
        for text in self.chop(request, tokens - 1):
            exact = node.children.get(text)
            if exact is not None and len(text) == self.size:
                found.append(exact)
                node = exact
                continue
            if exact is not None:
                return found, exact, len(found) * self.size + len(text)
            equal = {child: common(text, child.text) for child in node.children.values()}
            best = max(equal.values(), default=0)
            if not best:
                break
            chosen = next(child for child in equal if equal[child] == best)
            return found, chosen, len(found) * self.size + best
        return found, None, len(found) * self.size

    def admit(self, request: int, tokens: int) -> None:
        found, part, _ = self.match(request, tokens)
        for block in found:
            self.queue.pop(block, None)
            block.users += 1
        held = self.held[request] = list(found)
        if part is not None and not part.users and not part.children:
            self.unlink(part)
            del self.queue[part]
            part.users = 1
            held.append(part)
        held.extend(self.take() for _ in range(-(-tokens // self.size) - len(held)))

    def take(self) -> Block:
        block, _ = self.queue.popitem(last=False)
        self.evicted += self.drop(block)
        block.users = 1
        return block

    def drop(self, block: Block) -> int:
        below = sum(self.drop(child) for child in list(block.children.values()))
        if block.parent is None:
            return below
        self.unlink(block)
        return below + 1

    def unlink(self, block: Block) -> None:
        assert block.parent is not None
        del block.parent.children[block.text]
        block.parent, block.text = None, ()

    def store(self, request: int, tokens: int) -> None:
        node = self.root
        for block, text in zip(self.held[request], self.chop(request, tokens), strict=False):
            found = node.children.get(text)
            if found is None:
                block.parent, block.text = node, text
                node.children[text] = block
                found = block
            node = found

    def finish_prompt(self, request: int, prompt: int, tokens: int) -> None:
        if not self.only_at_end and tokens >= prompt:
            self.store(request, (tokens - 1) // self.size * self.size)

    def grow(self, request: int, computed: int) -> None:
        if computed % self.size == 0:
            self.held[request].append(self.take())

    def release(self, request: int, computed: int) -> None:
        self.store(request, computed)
        for block in reversed(self.held.pop(request)):
            block.users -= 1
            if not block.users:
                self.queue[block] = None

    def first_missing(self, request: int, tokens: int) -> int | None:
        """Return where the first full block that is not stored ends."""
        node = self.root
        for number, text in enumerate(self.chop(request, tokens // self.size * self.size), start=1):
            found = node.children.get(text)
            if found is None:
                return number * self.size
            node = found
        return None


def common(a: Text, b: Text) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
