"""Mooncake JSON Lines, and the Qwen-Bailian traces that share its fields: lengths, and a hash for each prompt block.

Sources: https://github.com/kvcache-ai/Mooncake, folder FAST25-release (Apache-2.0; stamps in ms, 512-token blocks);
https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon (Apache-2.0; stamps in s, 16-token blocks, conversations).
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from workloads.formats.assembly import Columns
from workloads.formats.source import Head, collect, number, shorten, whole
from workloads.formats.ties import bin_seconds
from workloads.trace import Integers, Segments

KNOWN_AS = "Mooncake or Qwen-Bailian JSON Lines ({timestamp, input_length, output_length, hash_ids, [chat_id, ...]})"

MOONCAKE_BLOCK_TOKENS = 512
BAILIAN_BLOCK_TOKENS = 16


def recognise(head: Head) -> bool:
    """Tell whether the objects have lengths and hashes."""
    return head.line.startswith("{") and {"timestamp", "input_length", "output_length", "hash_ids"} <= head.keys


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Read the trace: one segment a block, ``(hash_id, 0, tokens in the block)``.

    Mooncake's hashes stand for a block and all before it; whether they do or not, prompts are equal as far as their
    hashes are. Bailian's conversations become `session`; their turns arrive when they were recorded, whatever the
    simulated system makes of the turn before.
    """
    bailian = {"chat_id", "parent_chat_id"} <= head.keys
    rows = _Rows(BAILIAN_BLOCK_TOKENS if bailian else MOONCAKE_BLOCK_TOKENS, bailian)
    collect(path, rows.add)
    arrival_seconds = np.array(rows.stamps) * (1.0 if bailian else 1e-3)
    prompt_tokens = np.array(rows.prompt_tokens)
    return Columns(
        arrival_seconds,
        prompt_tokens,
        np.array(rows.output_tokens),
        segments=_segments(np.array(rows.blocks), np.array(rows.hashes), prompt_tokens, rows.block_tokens),
        session=np.array(rows.sessions) if bailian else None,
        bin_seconds=bin_seconds(arrival_seconds),
    )


class _Rows:
    """Columns that grow by an object at a time, eight bytes a value."""

    def __init__(self, block_tokens: int, with_chats: bool) -> None:
        self.block_tokens = block_tokens
        self.with_chats = with_chats
        self.stamps = array("d")
        self.prompt_tokens, self.output_tokens = array("q"), array("q")
        self.blocks, self.hashes = array("q"), array("q")
        self.sessions = array("q")
        self.session_of_chat: dict[int, int] = {}

    def add(self, row: dict[str, Any]) -> None:
        stamp = number(row, "timestamp")
        prompt_tokens, output_tokens = whole(row, "input_length"), whole(row, "output_length")
        hashes = row.get("hash_ids")
        blocks = -(-prompt_tokens // self.block_tokens)
        if not isinstance(hashes, list) or not all(type(key) is int and 0 <= key < 1 << 63 for key in hashes):
            raise ValueError(f"hash_ids is {shorten(str(hashes))}; allowed: a list of whole numbers of at least 0")
        if len(hashes) != blocks:
            raise ValueError(
                f"hash_ids has {len(hashes)} blocks; allowed: {blocks}, "
                f"as input_length is {prompt_tokens} and a block {self.block_tokens} tokens"
            )
        if self.with_chats:
            self.sessions.append(self._session(row))
        self.stamps.append(stamp)
        self.prompt_tokens.append(prompt_tokens)
        self.output_tokens.append(output_tokens)
        self.blocks.append(blocks)
        self.hashes.extend(hashes)

    def _session(self, row: dict[str, Any]) -> int:
        chat, parent = whole(row, "chat_id"), whole(row, "parent_chat_id", -1)
        session = self.session_of_chat.get(parent, len(self.session_of_chat))
        self.session_of_chat[chat] = session
        return session


def _segments(blocks: Integers, hashes: Integers, prompt_tokens: Integers, block_tokens: int) -> Segments:
    offsets = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
    length = np.full(len(hashes), block_tokens, dtype=np.int64)
    with_blocks = blocks > 0
    length[offsets[1:][with_blocks] - 1] = (prompt_tokens - block_tokens * (blocks - 1))[with_blocks]
    return Segments(offsets, hashes, np.zeros(len(hashes), dtype=np.int64), length)
