"""A prefix cache that keeps a record of every block: the rules of the vLLM V1 block pool in their plainest form."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class BlockByBlock:
    """Idle blocks in the order in which they are taken, and for each content its copies, earliest first."""

    def __init__(
        self, blocks: int, block_tokens: int, symbols: list[list[Hashable]], *, unhashed_first: bool = True
    ) -> None:
        self.block_tokens = block_tokens
        self.unhashed_first = unhashed_first
        self.symbols = symbols
        self.unhashed = blocks
        self.idle: OrderedDict[int, None] = OrderedDict()
        self.users: dict[int, int] = {}
        self.content: dict[int, Hashable] = {}
        self.copies: dict[Hashable, list[int]] = {}
        self.held: dict[int, list[int]] = {}
        self.evicted = 0
        self._number = 0

    @property
    def free(self) -> int:
        return self.unhashed + len(self.idle)

    def identity(self, request: int, block: int) -> Hashable:
        return tuple(self.symbols[request][: (block + 1) * self.block_tokens])

    def match(self, request: int, tokens: int) -> list[int]:
        found = []
        for block in range((tokens - 1) // self.block_tokens):
            copies = self.copies.get(self.identity(request, block))
            if not copies:
                break
            found.append(copies[0])
        return found

    def admit(self, request: int, tokens: int, found: list[int]) -> None:
        for block in found:
            self.idle.pop(block, None)
            self.users[block] += 1
        fresh = [self.take() for _ in range(-(-tokens // self.block_tokens) - len(found))]
        self.held[request] = [*found, *fresh]
        self.register(request, tokens)

    def take(self) -> int:
        if self.unhashed:
            self.unhashed -= 1
        else:
            block, _ = self.idle.popitem(last=False)
            if block in self.content:
                self.copies[self.content.pop(block)].remove(block)
                self.evicted += 1
        self._number += 1
        self.users[self._number] = 1
        return self._number

    def register(self, request: int, computed: int) -> None:
        for position, block in enumerate(self.held[request][: computed // self.block_tokens]):
            if block not in self.content:
                self.content[block] = self.identity(request, position)
                self.copies.setdefault(self.content[block], []).append(block)

    def grow(self, request: int, computed: int) -> None:
        if computed % self.block_tokens == 0:
            self.held[request].append(self.take())

    def release(self, request: int, computed: int) -> None:
        self.register(request, computed)
        for block in reversed(self.held.pop(request)):
            self.users[block] -= 1
            if not self.users[block]:
                if block in self.content or not self.unhashed_first:
                    self.idle[block] = None
                else:
                    self.unhashed += 1
