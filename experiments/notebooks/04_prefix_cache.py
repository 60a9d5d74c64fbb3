# %% [markdown]
# # What does prefix caching buy on a real trace?
#
# Conversations repeat themselves: every turn sends the whole history again, and everybody's prompt begins with the
# same system prompt. A server that keeps the keys and values of what it has seen need not compute them again. How
# much that buys depends on the traffic, so it takes a trace that says which parts of its prompts are equal.

# %%
import os
from dataclasses import replace

import numpy as np
from ipywidgets import FloatSlider, interact

from sim import Scenario, simulate
from workloads.synthetic.lengths import Lognormal
from workloads.synthetic.prefixes import system_prompt
from workloads.synthetic.sessions import geometric_turns, multi_turn

QUICK = os.environ.get("ROOFSERVE_QUICK") == "1"
REQUESTS = 600 if QUICK else 4000

# %% [markdown]
# ## The trace
#
# An hour of conversations with Kimi, published with Mooncake (FAST 2025): time, lengths, and hashes of every 512
# tokens of the prompt. It is read where a copy is at hand, downloaded otherwise, and where neither works, sessions
# with a system prompt stand in for it, made by a generator.

# %%
recorded = Scenario(
    "mooncake-conversation",
    hardware="h200-sxm",
    model="llama-3.1-70b",
    tensor=8,
    policy="chunked_prefill",
    tokens=8192,
    requests=REQUESTS,
)
try:
    trace = recorded.workload
except ValueError as error:
    print(f"{error}\nA generated workload stands in.")
    trace = multi_turn(
        np.random.default_rng(1),
        REQUESTS // 4,
        0.5,
        Lognormal(2000, 300),
        turns=geometric_turns(4.0),
        think_seconds=20.0,
        prefix=system_prompt(1000),
        context_tokens=32_000,
    )
pace = len(trace) / trace.duration_seconds
print(f"{trace.name}: {len(trace):,} requests over {trace.duration_seconds / 60:.0f} minutes")
print(f"median prompt {np.median(trace.prompt_tokens):,.0f} tokens, median reply {np.median(trace.output_tokens):,.0f}")

# %% [markdown]
# The whole traffic is more than one machine can bear. A share of it keeps the order and the pauses of the requests, and
# stretches the time between them.

# %%
scenario = replace(recorded, trace=trace, load=0.3 * pace)

# %% [markdown]
# ## How much is there to find?
#
# The most that any cache could find is what an earlier prompt contained already. Equal symbols are equal tokens, so
# the trace itself tells:

# %%
seen: set[tuple[int, int]] = set()
known = 0
for request in range(len(trace)):
    for key, start, length in trace.segments.row(request):
        pieces = {(key, place // 512) for place in range(start, start + length, 512)}
        known += 512 * len(pieces & seen)
        seen |= pieces
print(f"at most {known / trace.prompt_tokens.sum():.0%} of all prompt tokens were in an earlier prompt")

# %% [markdown]
# ## What the cache buys

# %%
cached = scenario.vary(prefix_cache=[False, True])
cached.table[["prefix_cache", "verdict", "prefix_hit_share", "ttft_p50_seconds", "ttft_p99_seconds", "busy_share"]]

# %%
cached.plot("TTFT", 0.5)

# %% [markdown]
# The gain at the median is the prompt work that is spared. Where the server is busy, the tail gains more than the
# work alone explains: spared work is also a shorter queue for everybody behind. That is why a cache seems to help
# most just before a server is overloaded, and why its worth should be stated at a load:

# %%
shares = [0.2, 0.4] if QUICK else [0.1, 0.2, 0.3, 0.4, 0.5]
hurried = scenario.vary(prefix_cache=[False, True], load=[round(pace * share, 2) for share in shares])
hurried.plot("TTFT", 0.9, across="load")

# %% [markdown]
# ## How much memory does it take?
#
# The cache lives in what the running requests leave. A smaller pool evicts earlier, and what comes back after its
# eviction is computed again. Move how much of the memory the server may use, and how fast requests come.


# %%
def explore(utilisation: float, share: float, cache: bool):
    """Simulate with that much memory and that share of the traffic, and show the key figures."""
    chosen = replace(scenario, utilisation=utilisation, load=pace * share, prefix_cache=cache)
    return simulate(replace(chosen, requests=min(REQUESTS, 1500)))


_ = interact(
    explore,
    utilisation=FloatSlider(value=0.9, min=0.25, max=0.95, step=0.05, description="memory"),
    share=FloatSlider(value=0.3, min=0.05, max=1.0, step=0.05, description="of traffic"),
    cache=True,
)

# %%
sizes = [0.3, 0.9] if QUICK else [0.25, 0.3, 0.4, 0.6, 0.9]
pools = scenario.vary(prefix_cache=[True], utilisation=sizes)
pools.table[["utilisation", "prefix_hit_share", "ttft_p50_seconds", "kv_occupancy", "preemptions"]]

# %% [markdown]
# The intervals of a recorded trace come from five stretches of it: they say how far *this* hour determines its own
# long-run figures, and nothing about other days.
