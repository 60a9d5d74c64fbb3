# %% [markdown]
# # Why was this request slow?
#
# A percentile says that one request in a hundred waited so long. It does not say what for. A simulation knows what
# the server did at every moment, so each latency can be split into parts that sum to it exactly: waiting for a seat,
# for memory, for prompts of others; computing its own prompt; decoding; and pauses in between.

# %%
import os
from dataclasses import replace

import numpy as np
import pandas as pd
from ipywidgets import FloatSlider, IntSlider, interact

from experiments.asked.options import Options
from experiments.shown.figures.latency_parts import tail_parts, waterfall
from experiments.tried.tail import Tail
from sim import Scenario, simulate
from sim.engine.clock import seconds
from sim.figures.words import duration
from sim.results.attribution import PARTS

QUICK = os.environ.get("ROOFSERVE_QUICK") == "1"
REQUESTS = 600 if QUICK else 3000

scenario = Scenario(load=1.2, requests=REQUESTS)
result = simulate(scenario)
result

# %% [markdown]
# ## The slowest request
#
# Not the longest: a long reply takes long on any server. What counts is how much longer it took than its own work.

# %%
tail = Tail(Options(), {"prefill_first": [result]})
request = tail.slowest("prefill_first")
result.requests.loc[request].to_frame()

# %%
parts = result.attribution()
split = pd.Series(seconds(parts.end_to_end[:, request]), index=PARTS.values(), name="seconds")
split[split > 0].sort_values(ascending=False).to_frame()

# %% [markdown]
# The parts are exact, to the tick of the simulation's clock:

# %%
parts.end_to_end[:, request].sum() == result.replay.finish[request] - result.replay.arrival[request]


# %%
def draw(run, number: int):
    """Draw the parts of one request one behind the other, and above them what the server did meanwhile."""
    found = dict(zip(PARTS, seconds(run.attribution().end_to_end[:, number]).tolist(), strict=True))
    whole = duration(sum(found.values()))
    asked = f"{run.trace.prompt_tokens[number]:,} prompt and {run.trace.output_tokens[number]:,} output tokens"
    return waterfall(run, number, found, f"Request {number} takes {whole} to its last token", asked)


draw(result, request)

# %% [markdown]
# Dark bars above are iterations of prompts alone. Each of them stops every reply that is being written: that is the
# price of `prefill_first`, and it is paid by those who are already inside.
#
# ## All slow requests
#
# One request is an anecdote. The slowest one per cent together, under three schedulers, on the same requests:

# %%
policies = ["prefill_first", "inflight_batching", "chunked_prefill"]
runs = {policy: [simulate(replace(scenario, policy=policy))] for policy in policies}
tails = Tail(Options(), runs)
tail_parts(
    tails.table,
    "What the slowest 1 % of the requests wait for",
    f"one run of {REQUESTS:,} requests at {scenario.load:g} requests/s; shares of the bar inside",
)

# %%
tails.table[tails.table.share > 0.02].pivot(index=["metric", "part"], columns="policy", values="share").round(2)

# %% [markdown]
# Two lessons that hold beyond this run:
#
# - *Waiting for memory is queueing.* It appears only near saturation, and then grows without bound; more memory, a
#   smaller cache entry (8-bit keys and values) or less reservation move the point where it begins.
# - *Stalls are interference.* They are there at any load at which prompts arrive, and only a different order of work
#   (smaller chunks, mixed batches) removes them.
#
# ## Move things
#
# Choose a request by its rank among the slowest, and the load.


# %%
def explore(rank: int, load: float):
    """Draw the waterfall of one of the slowest requests at that load."""
    run = simulate(replace(scenario, load=load, requests=min(REQUESTS, 1500)))
    slowest = np.argsort(-np.nan_to_num(run.end_to_end_seconds), kind="stable")
    return draw(run, int(slowest[rank - 1]))


_ = interact(
    explore,
    rank=IntSlider(value=1, min=1, max=50),
    load=FloatSlider(value=1.2, min=0.2, max=1.4, step=0.1, description="requests/s"),
)

# %% [markdown]
# `python -m experiments.run explain` also says *who* made a request wait, and checks it by leaving the offenders out.
# `python -m experiments.run timeline` writes everything that happened as a trace that Perfetto opens.
