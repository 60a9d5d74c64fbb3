"""A radix tree that spells out its text: the rules of SGLang at their plainest."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

Text = tuple[Hashable, ...]

ORDER = {
    "lru": lambda node: node.used,
    "lfu": lambda node: (node.hits, node.used),
    "fifo": lambda node: node.created,
    "mru": lambda node: -node.used,
    "filo": lambda node: -node.created,
}


@dataclass(eq=False)
class TextNode:
    """A piece of text, what follows it by its first page, and how it was used."""

    text: Text
    parent: TextNode | None
    used: int = 0
    created: int = 0
    hits: int = 0
    users: int = 0
    children: dict[Text, TextNode] = field(default_factory=dict)


class PlainRadix:
    """A pool of pages and the tree of what is stored in them; looking and storing take the time of one tick or more."""

    def __init__(self, pages: int, page: int, symbols: list[list[Hashable]], eviction: str) -> None:
        self.page, self.symbols, self.order = page, symbols, ORDER[eviction]
        self.available = pages
        self.now = self.evicted = 0
        self.root = TextNode((), None)
        self.last: dict[int, TextNode] = {}
        self.protected: dict[int, int] = {}
        self.inserted: dict[int, int] = {}

    @property
    def free(self) -> int:
        return self.available + sum(len(node.text) // self.page for node in self.nodes() if not node.users)

    def nodes(self) -> list[TextNode]:
        found, stack = [], list(self.root.children.values())
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(node.children.values())
        return found

    def whole(self, request: int, tokens: int) -> Text:
        return tuple(self.symbols[request][: tokens // self.page * self.page])

    def walk(self, text: Text) -> list[TextNode]:
        """Return the nodes on the way, the last one cut where the text leaves it."""
        self.now += 1
        node, path, time = self.root, [], self.now
        while text and (child := node.children.get(text[: self.page])):
            child.used = time
            equal = self.common(text, child.text)
            if equal < len(child.text):
                child = self.split(child, equal)
            path.append(child)
            text, node = text[equal:], child
            if not child.children:
                break
        return path

    def common(self, a: Text, b: Text) -> int:
        equal = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        return equal // self.page * self.page

    def split(self, node: TextNode, at: int) -> TextNode:
        self.now += 1
        front = TextNode(node.text[:at], node.parent, self.now, self.now, node.hits, node.users)
        node.parent.children[front.text[: self.page]] = front
        node.text, node.parent = node.text[at:], front
        front.children[node.text[: self.page]] = node
        return front

    def match(self, request: int, tokens: int) -> list[TextNode]:
        return self.walk(self.whole(request, tokens - 1))

    def admit(self, request: int, tokens: int, path: list[TextNode]) -> None:
        found = sum(len(node.text) for node in path)
        self.last[request] = path[-1] if path else self.root
        self.protected[request], self.inserted[request] = found, 0
        self.lock(self.last[request], 1)
        self.available -= -(-tokens // self.page) - found // self.page

    def lock(self, node: TextNode, by: int) -> None:
        while node.parent is not None:
            node.users += by
            node = node.parent

    def settle(self) -> None:
        while self.available < 0:
            leaves = [node for node in self.nodes() if not (node.children or node.users)]
            leaf = min(leaves, key=self.order)
            del leaf.parent.children[leaf.text[: self.page]]
            self.available += len(leaf.text) // self.page
            self.evicted += len(leaf.text) // self.page

    def store(self, request: int, tokens: int, prompt: int) -> None:
        self.settle()
        text = self.whole(request, tokens)
        path = self.walk(text)
        found = sum(len(node.text) for node in path)
        if found < len(text):
            self.now += 1
            parent = path[-1] if path else self.root
            node = TextNode(text[found:], parent, self.now, self.now)
            parent.children[node.text[: self.page]] = node
            path.append(node)
        end = 0
        for node in path:
            end += len(node.text)
            node.hits += end > self.inserted[request]
        self.inserted[request] = max(self.inserted[request], len(text))
        if 0 < prompt // self.page * self.page < len(text):
            self.walk(self.whole(request, prompt))
        self.available += (found - self.protected[request]) // self.page
        path = self.walk(text)
        self.lock(path[-1] if path else self.root, 1)
        self.lock(self.last[request], -1)
        self.last[request] = path[-1] if path else self.root
        self.protected[request] = len(text)

    def release(self, request: int, computed: int, held: int, prompt: int, *, keep: bool) -> None:
        self.settle()
        if not keep:
            self.store(request, computed, prompt)
        self.available += -(-held // self.page) - self.protected[request] // self.page
        self.lock(self.last.pop(request), -1)
