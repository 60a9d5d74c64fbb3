# %% [markdown]
# # A first what-if in five minutes
#
# A server answers chat requests with a language model. How long do people wait, and what changes if there are more of
# them, a faster chip, or a prefix cache? A simulation answers in a tenth of a second: it works out how long each
# iteration of the model takes on that chip, and lets a real engine's scheduler decide what runs in it.

# %%
import os
from dataclasses import replace

import numpy as np
from ipywidgets import Checkbox, FloatSlider, interact

from sim import Scenario, simulate

QUICK = os.environ.get("ROOFSERVE_QUICK") == "1"  # set by the tests: fewer requests, wider intervals
REQUESTS, REPLICATIONS = (600, 3) if QUICK else (3000, 5)

# %% [markdown]
# ## Ask
#
# A scenario needs nothing said: Llama-2-13B on two L20 cards, one chat request a second. Everything is a keyword.

# %%
scenario = Scenario(hardware="l20", model="llama-2-13b", tensor=2, load=1.0, requests=REQUESTS)
result = simulate(scenario)
result

# %% [markdown]
# **TTFT** is the wait for the first token, **ITL** each single pause between two tokens, **TPOT** the mean of those
# pauses over one reply, **E2E** the wait for the last token. A server is judged by its slow answers, so look at p99:
# one request in a hundred waits longer. The brackets say how far the truth may be from what this one run shows; where
# too few requests were that slow, there is no bracket rather than a wrong one.
#
# `result.requests` has a row for each request, `result.summary()` every figure with its unit in its name.

# %%
result.requests.head()

# %%
result.plot_latency("TTFT")

# %% [markdown]
# ## Why a token takes as long as it takes: the roofline
#
# To produce one token for everybody, the chip reads all weights once and multiplies. It is as slow as the scarcer of
# the two: reading bytes, or arithmetic. With few requests at once, reading is scarcer by far, so no gap between
# tokens can be shorter than the weights divided by the bandwidth. That bound is easy to compute by hand:

# %%
iteration = scenario.machine.model
weight_bytes = iteration.model.parameters * iteration.precision.weight_bytes / scenario.tensor
floor_seconds = weight_bytes / iteration.hardware.memory.bandwidth_bytes_per_second
gaps, _ = result.inter_token_seconds()
print(f"weights on each card       {weight_bytes / 1e9:.1f} GB")
print(f"reading them once          {1e3 * floor_seconds:.1f} ms")
print(f"shortest gap in this run   {1e3 * gaps.min():.1f} ms")

# %% [markdown]
# The rest of the shortest gap is what real kernels do not reach of the datasheet, the exchange between the two cards,
# the keys and values of the context, and the host. The reading costs the same for one request as for fifty: *batching
# is what makes serving cheap*, and waiting for a batch is what makes it slow.
#
# ## What if there were more requests?
#
# `vary` simulates every combination, on the same requests, several times with other random numbers.

# %%
loads = [0.4, 0.8, 1.1, 1.3] if QUICK else [0.3, 0.6, 0.9, 1.1, 1.2, 1.3, 1.4]
more = scenario.vary(load=loads, replications=REPLICATIONS)
more.plot("TTFT", 0.99)

# %%
more.plot("E2E", 0.5)

# %% [markdown]
# Two things happen as the load rises. *First everything gets slower*: more replies share each iteration, and more
# prompts of others come in between. The median of the end-to-end time shows it. *Then a queue forms*: requests wait
# until memory for their keys and values is free. This is the hockey stick that every queue has; in the simplest one
# (random arrivals, one server, utilisation $\rho$) the mean time in the system is the service time divided by $1 -
# \rho$, which doubles at 50 % and is twentyfold at 95 %. Past 100 % no percentile means anything, because it depends
# on how long one looks: such points are only marked.
#
# Where 100 % is can be asked directly: let everybody arrive at once and count what is finished per second.

# %%
crowd = simulate(replace(scenario, load=np.inf))
finish = np.sort(crowd.finish_seconds)
first, last = len(finish) // 4, 3 * len(finish) // 4
capacity = (last - first) / (finish[last] - finish[first])
print(f"capacity: {capacity:.2f} requests/s; one request per second is {100 / capacity:.0f} % of it")

# %% [markdown]
# ## Move things
#
# Every position of the sliders is a new simulation.


# %%
def explore(load: float, tensor: int, prefix_cache: bool):
    """Simulate, and draw how long people wait for the first token."""
    chosen = replace(scenario, load=load, tensor=tensor, prefix_cache=prefix_cache, requests=min(REQUESTS, 2000))
    return simulate(chosen).plot_latency("TTFT")


_ = interact(
    explore,
    load=FloatSlider(value=1.0, min=0.1, max=2.0, step=0.1, description="requests/s"),
    tensor=[("2 cards", 2), ("4 cards", 4)],
    prefix_cache=Checkbox(value=False, description="prefix cache"),
)

# %% [markdown]
# ## What to trust
#
# The *order of events* is exact: the schedulers reproduce recorded runs of the real ones, iteration for iteration.
# The *times* come from a cost model that is about 12 % off for dense models. Differences between two simulations of
# the same requests are known better than either number alone.
