"""The ledger of request-level batches: padded rectangles, and members that stay until the batch ends."""

from __future__ import annotations

from operator import attrgetter
from typing import ClassVar

from sim.scheduling.batch import Limits
from sim.scheduling.ledger import Ledger
from sim.scheduling.sequence import Sequence


class StaticLedger(Ledger):
    """A ledger for a policy that begins a batch with whole prompts, in one iteration, when nobody runs.

    All members therefore decode in step. The batch is computed in rows, one a member, and decoding is charged for rows.
    Source: TensorRT-LLM docs/source/batch_manager.md (0.8) on V1 batching, which is that of FasterTransformer.

    Attributes
    ----------
    pads : whether every row is as long as the longest of the batch; the rectangle of the prompts then has to fit the
        tokens of an iteration.
    to_end : whether the row of a member whose reply is complete goes on, for nothing, until the last reply is; members
        get their reply, and give their memory back, when the batch ends.
    """

    __slots__ = ("_begun", "_longest_row", "_row_tokens", "_rows", "_rows_context", "to_end")

    keeps_rows: ClassVar[bool] = True

    def __init__(self, limits: Limits, *, pads: bool, to_end: bool) -> None:
        """Start with empty queues and a free pool."""
        super().__init__(limits)
        self.pads = pads
        self.to_end = to_end
        self._begun = self._longest_row = self._rows = self._rows_context = 0
        self._row_tokens: list[int] = []

    def admit(
        self,
        sequence: Sequence,
        *,
        chunk: int | None = None,
        guaranteed_tokens: int = 0,
        whole: bool = True,
        room_tokens: int = 0,
        watermark_blocks: int = 0,
    ) -> bool:
        """Plan the prompt of a waiting sequence, which becomes a row of the batch, or say no."""
        if not self.chunks:
            self._begun = self.cohort.iteration
            self._longest_row = self._rows = self._rows_context = 0
            self._row_tokens = []
        if chunk is not None or not super().admit(
            sequence,
            guaranteed_tokens=guaranteed_tokens,
            whole=whole,
            room_tokens=room_tokens,
            watermark_blocks=watermark_blocks,
        ):
            return False
        self._longest_row = max(self._longest_row, sequence.tokens)
        self._rows += 1
        self._rows_context += sequence.tokens
        self._row_tokens.append(sequence.tokens)
        return True

    def _fits_budget(self, tokens: int, new: int) -> bool:
        if not self.pads:
            return super()._fits_budget(tokens, new)
        return max(self._longest_row, tokens) * (self._rows + 1) <= self.limits.tokens

    def decoding_rows(self) -> tuple[int, int]:
        """Return the rows that the decoding planned is computed for, and the tokens they hold together before it."""
        rows = self._rows if self.to_end else self.decodes
        steps = self.cohort.iteration - self._begun
        if self.pads:
            return rows, rows * (self._longest_row + steps)
        return rows, self._rows_context + rows * steps if self.to_end else self.context

    def sight(self) -> tuple[int, int, int]:
        """Return what rows see in layers with a window; see `Ledger.sight`."""
        if not (self.pads or self.to_end):
            return super().sight()
        window, steps = self.limits.window, self.cohort.iteration - self._begun
        rows = [self._longest_row] * self.decoding_rows()[0] if self.pads else self._row_tokens
        seen = [tokens + steps + 1 for tokens in rows]
        growing = [tokens for tokens in seen if tokens < window]
        regular = window - max(growing) + 1 if growing else 1 << 62
        return sum(min(tokens, window) for tokens in seen), len(growing), regular

    def keep(self, finished: list[Sequence]) -> list[Sequence]:
        """Take in members whose reply is complete, and return those who may go: at the end of the batch all."""
        if not self.to_end:
            return finished
        self.lingering += finished
        if self.cohort.count:
            return []
        leaving, self.lingering = sorted(self.lingering, key=attrgetter("serial")), []
        return leaving

    def release_lingering(self) -> bool:
        """Take back nothing: those who linger wait for the end of their batch."""
        return False
