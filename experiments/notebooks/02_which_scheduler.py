# %% [markdown]
# # Which scheduler for my objectives?
#
# A scheduler decides what the next iteration computes: prompts of newcomers, or one more token for those already
# being answered. Both want the chip; whoever goes second waits. What is best depends on what was promised.

# %%
import os
from dataclasses import replace

import numpy as np
from ipywidgets import IntSlider, SelectionSlider, interact

from sim import Objectives, Scenario, simulate
from sim.results.intervals import paired

QUICK = os.environ.get("ROOFSERVE_QUICK") == "1"
REQUESTS, REPLICATIONS = (400, 3) if QUICK else (2000, 5)

# %% [markdown]
# ## Say what was promised
#
# The service-level objectives (SLO) of one request: first token within 2 seconds, further tokens at a pace that a
# reader does not overtake. A request counts only if it meets *all* of them; the share that does is the *goodput*.

# %%
objectives = Objectives(ttft_seconds=2.0, tpot_seconds=0.1)
scenario = Scenario(model="llama-2-13b", hardware="l20", tensor=2, requests=REQUESTS)

# %% [markdown]
# ## The contenders
#
# - `prefill_first` (vLLM 0.2): newcomers first. Short waits for the first token, and everybody else pauses meanwhile.
# - `inflight_batching` (TensorRT-LLM): prompts and tokens in the same iteration; memory for the longest reply that a
#   client declared is set aside, so nobody is ever thrown out, and some wait who would have fitted.
# - `chunked_prefill` (vLLM V1): prompts run beside the tokens of others, long ones in pieces. With the generous 8,192
#   tokens an iteration that all three have here, few are cut; what smaller pieces change is asked below.

# %%
policies = ["prefill_first", "inflight_batching", "chunked_prefill"]
loads = [0.6, 1.0, 1.3] if QUICK else [0.4, 0.7, 0.9, 1.1, 1.2, 1.3, 1.4]
answers = scenario.vary(policy=policies, load=loads, replications=REPLICATIONS)
answers.plot("goodput", objectives=objectives)

# %%
answers.plot("TTFT", 0.9)

# %%
answers.plot("TPOT", 0.9)

# %% [markdown]
# Which of the two objectives is it that breaks first? Read the last two figures against the objectives: the tail of
# TTFT grows where requests *queue*, the tail of TPOT where replies are *interrupted*.
#
# ## The answer: how much load does each bear?
#
# The highest load at which the lower end of the interval still promises 95 % in time:

# %%
table = answers.summary(objectives)
kept = table[(table.verdict == "stable") & (table.goodput_low >= 0.95)]
kept.groupby("policy").load.max().reindex(policies).rename("highest load with 95 % in time [requests/s]").to_frame()

# %% [markdown]
# ## Is the difference real?
#
# Two intervals that overlap do not mean that there is no difference: both schedulers saw the *same* requests, so what
# counts is the difference in each replication (common random numbers).


# %%
def mean_seconds(policy: str, column: str) -> np.ndarray:
    """Return the mean of a latency in each replication at one load [s]."""
    chosen = scenario.vary(policy=[policy], load=[loads[1]], replications=REPLICATIONS)
    return np.array([np.nanmean(getattr(result, column)) for result in chosen.runs[0].results])


for column in ("ttft_seconds", "tpot_seconds", "end_to_end_seconds"):
    change = paired(mean_seconds("prefill_first", column), mean_seconds("chunked_prefill", column)).percent
    print(f"{column:20} chunked {change.estimate:+6.1f} %   [{change.low:+.1f}, {change.high:+.1f}]")

# %% [markdown]
# ## How large should a chunk be?
#
# Chunked prefill has one number to choose: the most new tokens in an iteration. Small chunks keep pauses short, and
# make prompts pay the fixed cost of an iteration (reading all weights) more often. Move it, and watch both.


# %%
def chunks(tokens: int, load: float):
    """Draw the pauses between tokens with chunks of at most so many tokens."""
    chosen = replace(scenario, policy="chunked_prefill", tokens=tokens, load=load, requests=min(REQUESTS, 1500))
    result = simulate(chosen)
    print(result)
    return result.plot_latency("ITL")


_ = interact(
    chunks,
    tokens=SelectionSlider(options=[128, 256, 512, 1024, 2048, 4096, 8192], value=2048, description="chunk tokens"),
    load=(0.2, 1.6, 0.1),
)

# %%
sizes = scenario.vary(policy=["chunked_prefill"], tokens=[256, 1024, 4096], load=[1.0], replications=REPLICATIONS)
sizes.plot("ITL", 0.99, across="tokens")

# %% [markdown]
# ## Look at it happening
#
# Four seconds around the longest pause of a running reply. A dark bar is an iteration of prompts alone: no reply
# moves.

# %%
simulate(replace(scenario, load=1.0)).plot_timeline()

# %%
simulate(replace(scenario, load=1.0, policy="chunked_prefill", tokens=512)).plot_timeline()


# %% [markdown]
# ## And with fewer seats?
#
# The most sequences at once is a limit too: fewer seats make each token faster, and the queue longer.


# %%
def seats(sequences: int):
    """Draw the first-token times with so many seats."""
    return simulate(replace(scenario, load=1.0, sequences=sequences, requests=min(REQUESTS, 1500))).plot_latency("TTFT")


_ = interact(seats, sequences=IntSlider(value=64, min=4, max=256, step=4))
