"""A request being served: how far its tokens have been computed, and nothing about time or hardware."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.scheduling.prefix_cache import Run


class Sequence:
    """One request inside the scheduler. Its computed tokens catch up with its tokens; there is no phase to keep.

    While it decodes in the cohort, `offset` plus the cohort's iteration count is the number of its computed tokens, so
    nothing here is touched per iteration; `generated` and `computed` are brought up to date when it leaves.

    Attributes
    ----------
    index : position in the trace; ties are broken by it.
    arrival : [ticks]
    prompt, target : prompt tokens, and reply tokens that will really come (the scheduler must not look at `target`).
    longest_reply : tokens the client declared as the most it accepts; what a scheduler may reserve.
    generated, computed : reply tokens so far, and tokens whose keys and values are stored.
    allocated : tokens for which blocks were taken before they are computed (a prompt admitted as a whole).
    serial : place in the order of admission.
    offset : computed tokens minus the cohort's iteration count.
    completion : cohort iteration after which the last token is out.
    guaranteed_blocks : KV blocks promised at admission, 0 without a promise.
    cached_tokens : prompt tokens found in the prefix cache at first admission.
    path : runs of content shared with other requests, root first, in blocks or tokens as the pool wants them.
    best_of : replies to generate at once, of which one is returned; 0 for one that answers to nobody.
    prefix : leading tokens of the prompt that the client declares to be shared.
    held : pieces of cached content in use, each with a place, as the pool notes them.
    registered : blocks of the path that other requests can find, or tokens, as the pool counts.
    priority : the smaller, the more urgent; only the policy `priority` looks at it.
    """

    __slots__ = (
        "allocated",
        "arrival",
        "best_of",
        "cached_tokens",
        "completion",
        "computed",
        "generated",
        "guaranteed_blocks",
        "held",
        "index",
        "is_decoding",
        "joined_row",
        "last_emission",
        "longest_reply",
        "offset",
        "path",
        "preemptions",
        "prefix",
        "priority",
        "prompt",
        "registered",
        "serial",
        "target",
    )

    def __init__(
        self,
        index: int,
        arrival: int,
        prompt: int,
        target: int,
        longest_reply: int,
        path: tuple[Run, ...] = (),
        prefix: int = 0,
        best_of: int = 1,
    ) -> None:
        """Describe a request that has just arrived."""
        self.index = index
        self.arrival = arrival
        self.prompt = prompt
        self.target = target
        self.longest_reply = longest_reply
        self.path = path
        self.prefix = prefix
        self.best_of = best_of
        self.generated = 0
        self.computed = 0
        self.allocated = 0
        self.serial = 0
        self.offset = 0
        self.completion = 0
        self.guaranteed_blocks = 0
        self.cached_tokens = 0
        self.preemptions = 0
        self.is_decoding = False
        self.joined_row = -1
        self.last_emission = -1
        self.registered = 0
        self.priority = 0
        self.held: list[tuple[Any, int]] = []

    @property
    def tokens(self) -> int:
        """Prompt and reply so far; what a (re)computation has to go through."""
        return self.prompt + self.generated

    def __repr__(self) -> str:
        """Show what a person debugging a schedule looks for."""
        return f"<request {self.index}: {self.computed}/{self.tokens} computed, {self.generated} generated>"


def queue_up(waiting: deque[Sequence], sequence: Sequence, late: bool) -> None:
    """Put a request that has just arrived behind the others; requests of one instant in order of their index.

    `late` : it comes after the decisions of this instant, and stays behind those who were there before them.
    """
    place = len(waiting)
    while (
        not late
        and place
        and waiting[place - 1].arrival == sequence.arrival
        and waiting[place - 1].index > sequence.index
    ):
        place -= 1
    waiting.insert(place, sequence)
