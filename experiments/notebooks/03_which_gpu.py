# %% [markdown]
# # Which GPU, and how many cards?
#
# Three questions in this order: does the model *fit*, is it *fast enough*, and what does a token *cost*? The first is
# arithmetic of memory, the second a simulation, the third a division.

# %%
import os
from dataclasses import replace

import numpy as np
import pandas as pd
from ipywidgets import Dropdown, FloatSlider, interact

import hardware_profiles
from sim import Objectives, Scenario, simulate

QUICK = os.environ.get("ROOFSERVE_QUICK") == "1"
REQUESTS, REPLICATIONS = (400, 3) if QUICK else (2000, 5)

scenario = Scenario(model="llama-2-13b", policy="chunked_prefill", tokens=2048, load=1.0, requests=REQUESTS)
chips = ["a10", "l20", "l40s", "a100-sxm-80", "h100-sxm"]

# %% [markdown]
# ## Does it fit?
#
# Weights must fit, and beside them the keys and values of everybody who is being answered: what is left of the memory
# bounds the batch, and with it the throughput.

# %%
model = scenario.machine.model.model
print(f"{model.title}: {2 * model.parameters / 1e9:.0f} GB of weights in 16 bits")
print(f"and {model.kv_bytes_per_token(2) / 1e6:.2f} MB of keys and values for each token of context")


# %%
def room(hardware: str, tensor: int) -> float:
    """Return how many requests of 2,000 tokens have room at once; NaN where not even the weights fit."""
    try:
        limits = replace(scenario, hardware=hardware, tensor=tensor).machine.limits
    except ValueError:
        return float("nan")
    return limits.blocks * limits.block_tokens // 2000


cards = [1, 2, 4]
pd.DataFrame({f"{n} cards": [room(chip, n) for chip in chips] for n in cards}, index=chips)

# %% [markdown]
# A chip that is too small says so, and what would do:

# %%
try:
    simulate(replace(scenario, hardware="a10", tensor=1))
except ValueError as error:
    print(error)

# %% [markdown]
# ## Is it fast enough?
#
# The roofline of a chip is two numbers: operations per second, and bytes per second. Their ratio is how many
# operations it must do with each byte to be busy computing rather than waiting for memory. One sequence that decodes
# does about one operation per byte of weight, a batch of *n* does *n*: below the ridge, a bigger batch is free.

# %%
profiles = {chip: hardware_profiles.load(chip) for chip in chips}
pd.DataFrame(
    {
        "Tflop/s": {chip: profile.peak_flops_per_second["fp16"] / 1e12 for chip, profile in profiles.items()},
        "GB/s": {chip: profile.memory.bandwidth_bytes_per_second / 1e9 for chip, profile in profiles.items()},
        "ridge [flop/byte]": {
            chip: profile.peak_flops_per_second["fp16"] / profile.memory.bandwidth_bytes_per_second
            for chip, profile in profiles.items()
        },
    }
).round(0)

# %% [markdown]
# Arithmetic decides how soon a prompt is computed (TTFT), bandwidth how fast tokens come (TPOT). Two cards that share
# a model (tensor parallelism) halve both, and pay for adding up their partial results after every layer: cheap over
# NVLink, dear over PCIe.

# %%
on_two = scenario.vary(hardware=chips, tensor=[2], replications=REPLICATIONS)
on_two.plot("TPOT", 0.5, across="hardware")

# %%
on_two.plot("TTFT", 0.9, across="hardware")

# %%
shared = scenario.vary(hardware=["l20", "h100-sxm"], tensor=[2, 4, 8], replications=REPLICATIONS)
shared.plot("TPOT", 0.5, across="tensor")

# %% [markdown]
# ## What does it cost?
#
# Load each machine as far as it keeps 95 % of its promises, and divide its price by what it then delivers. The rental
# prices in the profiles are rough, and dated; yours count.

# %%
objectives = Objectives(ttft_seconds=2.0, tpot_seconds=0.1)


def cost(hardware: str, tensor: int) -> dict[str, float]:
    """Return the highest load that keeps the promises, and the price of a million tokens there."""
    tried = replace(scenario, hardware=hardware, tensor=tensor)
    crowd = simulate(replace(tried, load=np.inf, requests=min(REQUESTS, 600)))
    finish = np.sort(crowd.finish_seconds)
    most = len(finish) / 2 / (finish[3 * len(finish) // 4] - finish[len(finish) // 4])
    shares = [0.5, 0.8] if QUICK else [0.5, 0.6, 0.7, 0.8, 0.9]
    table = tried.vary(load=[most * share for share in shares]).summary(objectives)
    kept = table[(table.verdict == "stable") & (table.goodput_share >= 0.95)]
    if kept.empty:
        return {"load [requests/s]": float("nan"), "USD per million tokens": float("nan")}
    best = kept.iloc[-1]
    low, high = profiles[hardware].usd_per_hour or (float("nan"), float("nan"))
    hourly = tensor * (low + high) / 2
    return {
        "load [requests/s]": best.load,
        "USD per million tokens": hourly / 3600 / best.output_tokens_per_second * 1e6,
    }


pd.DataFrame({f"2 x {chip}": cost(chip, 2) for chip in chips}).T.round(2)

# %% [markdown]
# ## Move things


# %%
def explore(hardware: str, tensor: int, load: float, precision: str):
    """Simulate on that machine, and show the key figures."""
    chosen = replace(scenario, hardware=hardware, tensor=tensor, load=load, precision=precision)
    try:
        return simulate(replace(chosen, requests=min(REQUESTS, 1500)))
    except ValueError as error:
        print(error)


_ = interact(
    explore,
    hardware=Dropdown(options=hardware_profiles.available(), value="l20"),
    tensor=[1, 2, 4, 8],
    load=FloatSlider(value=1.0, min=0.2, max=10.0, step=0.2),
    precision=["w16a16", "fp8", "w8a8", "w8a16", "w4a16"],
)

# %% [markdown]
# `python -m experiments.run sizing` answers the same for a list of models at once, and `tp_scaling` for one model over
# every number of cards.
