"""What each system can do: the article's table row by row, and a clear refusal of everything else."""

from __future__ import annotations

import numpy as np
import pytest

from sim import systems
from sim.physics.precision import PRECISIONS
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Trace

TRACE = Trace(np.zeros(1), np.array([10]), np.array([2]), np.array([2]))

# Section 4 of the article (January 2024), row by row: TensorRT-LLM, vLLM; None where it says nothing.
ARTICLE = {
    "complete_service": (False, True),
    "needs_compilation": (True, False),
    "fp8": (True, False),
    "fp8_block": (None, None),
    "w8a8": (True, None),
    "w8a16": (True, None),
    "w4a16": (None, True),
    "w4a8": (None, True),
    "w4a4": (None, True),
    "mxfp4": (None, None),
    "prefix_sharing": (True, False),
    "needs_padding": (False, True),
    "chunked_prefill": (False, False),
    "flash_attention": (True, True),
    "paged_attention": (True, True),
    "continuous_batching": (True, True),
    "kv8": (None, None),
}
PAIR = ("tensorrt-llm-2024-01", "vllm-0.2.7")
CHECKED = {("vllm-0.2.7", "w4a8"): False, ("vllm-0.2.7", "w4a4"): False}
"""Where the article does not stand: vLLM shipped no such kernel then."""


def test_every_capability_is_in_the_articles_table_or_marked_as_ours() -> None:
    assert set(ARTICLE) == set(systems.CAPABILITIES)


@pytest.mark.parametrize("row", ARTICLE)
@pytest.mark.parametrize("place", [0, 1])
def test_a_preset_says_what_the_article_says_and_what_was_found(row: str, place: int) -> None:
    name, said = PAIR[place], ARTICLE[row][place]
    capability = systems.load(name).capabilities[row]
    if said is None:
        assert not capability.article_says
    else:
        assert capability.article_says.startswith("yes") == said
        assert capability.has == CHECKED.get((name, row), said)
    if capability.article_errs:
        assert capability.checked


def test_the_articles_row_on_first_tokens_is_the_policy_of_each() -> None:
    mixed, alternating = (systems.load(name).rules.policy for name in PAIR)
    assert (mixed, alternating) == ("inflight_batching", "prefill_first")


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if not name.startswith("w16")])
@pytest.mark.parametrize("name", systems.available())
def test_a_number_format_is_served_or_refused_with_the_names_of_those_that_can(name: str, precision: str) -> None:
    key = PRECISIONS[precision].name.partition("-")[0]
    able = [other for other in systems.available() if systems.load(other).has(key)]
    if name in able:
        assert systems.scenario(name, TRACE, precision=precision).precision == precision
        return
    with pytest.raises(ValueError, match=f"precision='{precision}': .* has no .*systems that have it: ") as refused:
        systems.scenario(name, TRACE, precision=precision)
    assert all(other in str(refused.value) for other in able)


@pytest.mark.parametrize(
    ("capability", "asked"), [("prefix_sharing", {"prefix_cache": True}), ("chunked_prefill", {"chunked": True})]
)
@pytest.mark.parametrize("name", systems.available())
def test_sharing_and_chunking_are_served_or_refused_with_the_names_of_those_that_can(
    name: str, capability: str, asked: dict[str, bool]
) -> None:
    able = [other for other in systems.available() if systems.load(other).has(capability)]
    if name in able:
        scenario = systems.scenario(name, TRACE, **asked)
        assert scenario.prefix_cache or capability != "prefix_sharing"
        policy = scenario.policy
        scheduler = SCHEDULERS[policy] if isinstance(policy, str) else policy
        assert scheduler.cuts_prompts or capability != "chunked_prefill"
        return
    with pytest.raises(ValueError, match=r"=True: .* has no .*systems that have it: ") as refused:
        systems.scenario(name, TRACE, **asked)
    assert all(other in str(refused.value) for other in able)
