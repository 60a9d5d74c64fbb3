# %% [markdown]
# # My own chip, from a datasheet and from my own measurements
#
# A chip is a small text file. With the numbers of a datasheet it can be compared with every other; with an hour of
# measurements on it, the times can be trusted further.

# %%
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from ipywidgets import FloatLogSlider, interact

import hardware_profiles
from experiments import calibrate
from sim import Scenario, simulate
from sim.physics import calibration

QUICK = os.environ.get("ROOFSERVE_QUICK") == "1"
REQUESTS, REPLICATIONS = (400, 3) if QUICK else (2000, 5)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## From a datasheet
#
# Units are SI, rates are *dense* (many datasheets print the doubled rate of sparse matrices), links are one
# direction. What is missing, misspelt or implausible is refused in a sentence that names the field.

# %%
mine = folder / "mine.toml"
mine.write_text(
    """
title = "My accelerator"
vendor = "Example"
architecture = "First"
form = "PCIe"
year = 2026

[peak_flops_per_second]               # dense
bf16 = 400e12
fp8 = 800e12

[memory]
capacity_bytes = 68_719_476_736       # "64 GB" is 64 * 2**30
bandwidth_bytes_per_second = 2000e9

[host_link]                           # one direction
kind = "PCIe Gen5 x16"
topology = "pcie"
bytes_per_second = 64e9
"""
)
chip = hardware_profiles.load(mine)
chip.title, chip.memory.usable_bytes / 2**30

# %%
typo = folder / "typo.toml"
typo.write_text(mine.read_text().replace("2000e9", "2000"))
try:
    hardware_profiles.load(typo)
except ValueError as error:
    print(error)

# %% [markdown]
# The file is a value of `hardware` like any shipped name:

# %%
scenario = Scenario(hardware=str(mine), model="llama-2-13b", tensor=1, load=1.0, requests=REQUESTS)
simulate(scenario)

# %%
against = scenario.vary(hardware=[chip, "l40s", "a100-sxm-80", "h100-sxm"], replications=REPLICATIONS)
against.plot("TPOT", 0.5)

# %% [markdown]
# ## Which number of the datasheet matters?
#
# Decoding reads all weights for every token, so bandwidth decides TPOT; prompts are arithmetic, so the peak decides
# TTFT. Double either, and see which one moves. (On other loads and models the answer differs, which is why it is
# asked.)

# %%
memory = chip.memory
twice_the_bandwidth = replace(
    chip,
    name="bandwidth x 2",
    memory=replace(memory, bandwidth_bytes_per_second=2 * memory.bandwidth_bytes_per_second),
)
twice_the_peak = replace(
    chip, name="peak x 2", peak_flops_per_second={k: 2 * v for k, v in chip.peak_flops_per_second.items()}
)
doubled = scenario.vary(hardware=[chip, twice_the_bandwidth, twice_the_peak], replications=REPLICATIONS)
doubled.table[["hardware", "ttft_p50_seconds", "tpot_p50_seconds", "e2e_p50_seconds"]]


# %%
def explore(bandwidth: float, peak: float):
    """Simulate a chip with so many GB/s and Tflop/s."""
    wished = replace(
        chip,
        memory=replace(memory, bandwidth_bytes_per_second=1e9 * bandwidth),
        peak_flops_per_second={"bf16": 1e12 * peak},
    )
    return simulate(replace(scenario, hardware=wished, requests=min(REQUESTS, 1500)))


_ = interact(
    explore,
    bandwidth=FloatLogSlider(value=2000, base=10, min=2.7, max=4, step=0.05, description="GB/s", readout_format=",.0f"),
    peak=FloatLogSlider(value=400, base=10, min=1.7, max=3.4, step=0.05, description="Tflop/s", readout_format=",.0f"),
)

# %% [markdown]
# ## From measurements
#
# No kernel reaches the datasheet. The generic constants are what kernels of six other GPUs reached; measure your own
# to replace them. The shortest useful table has matrix products: columns `hw, backend, dtype, kernel, m, n, k, us`, a
# row for each shape, microseconds each. Put it into a folder as `gemm_grid.csv`; attention, collectives and experts
# go into tables of their own (`python -m experiments.run calibrate --help`).
#
# Here the measurements are *made up*, so that one can see whether the fit finds what was put in: kernels that reach
# 62 % of the peak and 78 % of the bandwidth, 6 us to start, and 3 % noise.

# %%
rng = np.random.default_rng(7)
rows = []
for m in 2 ** np.arange(0, 14):
    for n, k in ((5120, 5120), (15360, 5120), (13824, 5120), (5120, 13824)):
        arithmetic = 2 * m * n * k / (0.62 * chip.peak("bf16"))
        reading = 2 * (m * k + k * n + m * n) / (0.78 * memory.bandwidth_bytes_per_second)
        seconds = (6e-6 + max(arithmetic, reading)) * np.exp(0.03 * rng.standard_normal())
        rows.append(("mine", "vllm-0.33", "bfloat16", "linear", m, n, k, 1e6 * seconds))
measured = folder / "measured"
measured.mkdir()
columns = ["hw", "backend", "dtype", "kernel", "m", "n", "k", "us"]
pd.DataFrame(rows, columns=columns).to_csv(measured / "gemm_grid.csv", index=False)

# %%
fitted = folder / "mine-vllm.toml"
calibrate.run(str(mine), str(measured), out=fitted)

# %% [markdown]
# The errors are those on shapes that the fit never saw. Now the same scenario with the constants of this chip; what
# nobody measured keeps the generic ones, and `level` says so wherever times are shown.

# %%
own = calibration.load(str(fitted), chip)
own.level

# %%
levels = {"datasheet": calibration.load("datasheet", chip), "generic": calibration.load("generic", chip), "mine": own}
compared = {
    name: simulate(replace(scenario, hardware=chip, efficiency=constants)).summary()
    for name, constants in levels.items()
}
pd.DataFrame(compared).T[["ttft_p50_seconds", "ttft_p99_seconds", "tpot_p50_seconds", "e2e_p50_seconds"]]

# %% [markdown]
# The row *datasheet* is no prediction: it is what would happen if every kernel reached every peak. A comparison of
# two chips on datasheet numbers compares their datasheets.
