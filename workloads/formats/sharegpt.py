"""ShareGPT JSON: conversations as text, whose lengths are estimated because no tokenizer is at hand.

Source of the format: ShareGPT_V3_unfiltered_cleaned_split.json and its kin, as vLLM's benchmarks read them
(vllm/benchmarks/datasets, `is_valid_sequence`).
"""

from __future__ import annotations

import io
import json
import math
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workloads.formats.assembly import NO_ARRIVALS, Columns
from workloads.formats.source import BLOCK_BYTES, Head, Problems, open_file, shorten

KNOWN_AS = 'ShareGPT JSON ([{"conversations": [{"from": ..., "value": ...}, ...]}, ...])'

CHARACTERS_PER_TOKEN = 4.0
SOMETHING = re.compile(r"[^\s,]")
SHORTEST_TOKENS = 4
LONGEST_PROMPT_TOKENS = 1024
LONGEST_TOTAL_TOKENS = 2048
ESTIMATE = (
    f"lengths are estimated from text at {CHARACTERS_PER_TOKEN:g} characters a token (typical of English): "
    "expect errors of tens of percent, more in other languages and in code"
)
RULES = (
    f"fewer than two turns, a prompt or reply of fewer than {SHORTEST_TOKENS} tokens, a prompt of more than "
    f"{LONGEST_PROMPT_TOKENS}, or more than {LONGEST_TOTAL_TOKENS} together"
)


def recognise(head: Head) -> bool:
    """Tell whether the file is an array of objects with conversations."""
    return head.line.lstrip().startswith("[") and "conversations" in head.keys


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Read the first two turns of each conversation as prompt and reply, filtered as vLLM's benchmark filters.

    Left out, and counted in a note: conversations of fewer than two turns; prompts or replies of fewer than 4 tokens;
    prompts of more than 1,024 tokens; prompt and reply of more than 2,048 tokens together.
    """
    problems = Problems(path)
    prompt_tokens, output_tokens = array("q"), array("q")
    entries = 0
    for line, entry in _entries(path, problems):
        entries += 1
        try:
            lengths = [_tokens(turn) for turn in _turns(entry)[:2]]
        except ValueError as error:
            problems.add(line, str(error))
            continue
        if len(lengths) == 2 and _is_kept(*lengths):
            prompt_tokens.append(lengths[0])
            output_tokens.append(lengths[1])
    problems.check()
    left_out = entries - len(prompt_tokens)
    kept = f"{left_out:,} of {entries:,} conversations are left out by the rules of vLLM's benchmark: {RULES}"
    return Columns(
        np.zeros(len(prompt_tokens)),
        np.array(prompt_tokens),
        np.array(output_tokens),
        notes=[ESTIMATE, kept, NO_ARRIVALS],
    )


def _is_kept(prompt: int, output: int) -> bool:
    return (
        min(prompt, output) >= SHORTEST_TOKENS
        and prompt <= LONGEST_PROMPT_TOKENS
        and prompt + output <= LONGEST_TOTAL_TOKENS
    )


def _turns(entry: Any) -> list[Any]:
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        raise ValueError(f"no list of conversations in {shorten(str(entry))}")
    return turns


def _tokens(turn: Any) -> int:
    text = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"no text under value in {shorten(str(turn))}")
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def _entries(path: Path, problems: Problems) -> Iterator[tuple[int, Any]]:
    """Yield ``(line number, entry)`` of a JSON array, holding little more than one block of it."""
    decoder = json.JSONDecoder()
    with open_file(path) as file:
        reader = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
        text = reader.read(BLOCK_BYTES)
        place, line = text.index("["), 1
        while True:
            start = _next_entry(text, place + 1)
            if text.startswith("]", start):
                return
            try:
                entry, end = decoder.raw_decode(text, start)
            except json.JSONDecodeError as error:
                more = reader.read(BLOCK_BYTES)
                if not more:
                    problems.add(
                        line + text.count("\n", place, start), f"not JSON ({error.msg}): {shorten(text[start:])}"
                    )
                    return
                text = text[place:] + more
                place = 0
                continue
            yield line + text.count("\n", place, start), entry
            line += text.count("\n", place, end - 1)
            place = end - 1


def _next_entry(text: str, place: int) -> int:
    """Return where the next thing begins that is neither a comma nor a space."""
    match = SOMETHING.search(text, place)
    return match.start() if match else len(text)
