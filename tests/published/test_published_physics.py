"""Figures that others published, and how near the bare roofline and the generic constants come to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from experiments.scoreboard.layers import eager_seconds
from hardware_profiles.profile import load as load_hardware
from sim.physics.collectives import all_reduce_seconds
from sim.physics.efficiency import datasheet, generic
from sim.physics.iteration import IterationModel
from sim.physics.matrices import Matrix
from sim.physics.memory import kv_blocks, kv_bytes_per_token_per_device, runtime_reserve
from sim.physics.operators import gemm
from sim.physics.parallelism import Parallelism
from sim.physics.precision import PRECISIONS
from sim.physics.roofline import roofline_seconds
from sim.physics.totals import Totals
from workloads.models import load as load_model

if TYPE_CHECKING:
    import pandas as pd

W16A16 = PRECISIONS["w16a16"]
CHIPS = {"A100-SXM-80G": "a100-sxm-80", "H100-SXM": "h100-sxm", "RTXPRO6000": "rtx-pro-6000-server"}


def median_error(predicted_us: np.ndarray | pd.Series, measured_us: pd.Series) -> float:
    return float(np.median(np.abs(np.asarray(predicted_us) / measured_us.to_numpy() - 1.0)))


# ---- zhuanlan.zhihu.com/p/678763741, January 2024


@pytest.mark.parametrize(("devices", "milliseconds"), [(1, 30.09), (2, 15.05)])
def test_article_13b_weights_are_read_on_l20(devices: int, milliseconds: float) -> None:
    # The article prints 28.02 and 14.01: it divides GiB by GB/s.
    l20 = load_hardware("l20")
    seconds = roofline_seconds(
        0.0, 13e9 * 2 / devices, datasheet().gemm, l20.peak("fp16"), l20.memory.bandwidth_bytes_per_second
    )
    assert 1e3 * seconds == pytest.approx(milliseconds, abs=0.01)


def test_datasheet_decode_of_13b_on_l20_is_its_weight_read_time() -> None:
    # 13,015,864,320 weights without the 163,840,000 of the input table: 29.75 ms; the rest is activations.
    model = IterationModel(load_model("llama-2-13b"), load_hardware("l20"), efficiency=datasheet(), host_seconds=0.0)
    assert 1e3 * model.seconds(Totals(1, 1, decode_sequences=1, decode_kv_tokens=1)) == pytest.approx(29.75, rel=0.002)


@pytest.mark.parametrize(("name", "size"), [("llama-2-13b", 819200), ("llama-2-70b", 327680)])
def test_kv_bytes_per_token(name: str, size: int) -> None:
    # 2 x 40 layers x 40 heads x 128 x 2 bytes (arXiv:2309.06180 says "800 KB" for OPT-13B); 2 x 80 x 8 x 128 x 2.
    assert kv_bytes_per_token_per_device(load_model(name), W16A16, Parallelism()) == size


# ---- A server: vLLM 0.19.0 on RTX 4090 (github.com/casys-kaist/LLMServingSim, bench/examples, MIT)


def test_kv_blocks_of_a_real_server() -> None:
    model, chip = load_model("llama-3.1-8b"), load_hardware("rtx-4090")
    chip = replace(chip, memory=replace(chip.memory, cuda_visible_bytes=25_250_627_584))
    blocks = kv_blocks(model, chip, W16A16, Parallelism(), utilisation=0.9, max_tokens=2048, max_samples=256)
    assert blocks == pytest.approx(2588, rel=0.10)  # goal 10 %; the reserve's terms are derived, not fitted
    reserve = runtime_reserve(model, Parallelism(), 2048, 256)
    assert reserve.sampling_bytes > reserve.activation_bytes  # a vocabulary of 128,256 outweighs 2,048 tokens


# ---- Operators (aiconfigurator-core 0.12.0, Apache-2.0): medians over all shapes, generic constants


def gemm_error(table: pd.DataFrame, hardware: str) -> float:
    chip = load_hardware(CHIPS[hardware])
    rate = generic(chip).gemm
    predicted_us = np.empty(len(table))
    for (n, k), rows in table.reset_index(drop=True).groupby(["n", "k"]):
        work = gemm(Matrix("", 1, int(k), int(n)), W16A16, rows["m"].to_numpy(dtype=float))
        bandwidth = chip.memory.bandwidth_bytes_per_second
        predicted_us[rows.index] = 1e6 * roofline_seconds(
            work.flops, work.moved_bytes, rate, chip.peak("bf16"), bandwidth
        )
    return median_error(predicted_us, table["us"])


@pytest.mark.parametrize(
    ("hardware", "backend", "goal"),
    [
        ("H100-SXM", "vllm-0.24.0", 0.15),
        ("H100-SXM", "trtllm-1.3.0rc20", 0.15),
        ("RTXPRO6000", "vllm-0.24.0", 0.15),
        ("A100-SXM-80G", "vllm-0.14.0", 0.15),
        ("A100-SXM-80G", "trtllm-1.0.0", 0.15),
    ],
)
def test_bf16_gemm(shared: Path, hardware: str, backend: str, goal: float) -> None:
    import pandas as pd

    table = pd.read_parquet(shared / "measured" / "gemm_grid.parquet")
    table = table[(table.hw == hardware) & (table.backend == backend) & (table.dtype == "bfloat16")]
    assert len(table) > 5000
    assert gemm_error(table, hardware) < goal


def attention_error(table: pd.DataFrame, hardware: str, kv_bytes: float) -> float:
    predicted_us = np.empty(len(table))
    for (heads, kv_heads), rows in table.reset_index(drop=True).groupby(["n_heads", "n_kv"]):
        shape = replace(load_model("llama-2-7b"), layers=1, query_heads=int(heads), kv_heads=int(kv_heads), head=128)
        chip, formats = load_hardware(CHIPS[hardware]), replace(W16A16, kv_bytes=kv_bytes)
        model = IterationModel(shape, chip, formats, efficiency=generic(chip))
        batch, length = rows["batch"].to_numpy(dtype=float), rows["kv_len"].to_numpy(dtype=float)
        if (rows["phase"] == "decode").all():
            seconds = model.attention.decode_seconds(batch * length, batch)
        else:
            seconds = model.attention.prefill_seconds(batch * length * (length + 1) / 2, 0.0, batch * length)
        predicted_us[rows.index] = 1e6 * seconds
    return median_error(predicted_us, table["us"])


@pytest.mark.parametrize(
    ("phase", "hardware", "backend", "goal"),
    [
        ("decode", "H100-SXM", "vllm-0.24.0", 0.35),
        ("decode", "H100-SXM", "trtllm-1.3.0rc20", 0.35),
        ("decode", "RTXPRO6000", "vllm-0.24.0", 0.35),
        ("prefill", "A100-SXM-80G", "vllm-0.14.0", 0.35),
        ("prefill", "A100-SXM-80G", "trtllm-1.0.0", 0.35),
        ("prefill", "H100-SXM", "vllm-0.24.0", 0.35),
        ("prefill", "H100-SXM", "trtllm-1.3.0rc20", 0.35),
        ("prefill", "RTXPRO6000", "vllm-0.24.0", 0.35),
        ("decode", "A100-SXM-80G", "vllm-0.14.0", 0.35),
        ("decode", "A100-SXM-80G", "trtllm-1.0.0", 0.35),
    ],
)
def test_bf16_attention(shared: Path, phase: str, hardware: str, backend: str, goal: float) -> None:
    import pandas as pd

    table = pd.read_parquet(shared / "measured" / "attention_grid.parquet")
    table = table[(table.hw == hardware) & (table.backend == backend) & (table.phase == phase)]
    table = table[(table.kv_dtype == "bfloat16") & (table.attn_dtype == "bfloat16")]
    assert len(table) > 4000
    assert attention_error(table, hardware, kv_bytes=2.0) < goal


@pytest.mark.parametrize("world", [2, 4, 8])
@pytest.mark.parametrize(
    ("hardware", "backend"), [("A100-SXM-80G", "vllm_graph-0.14.0"), ("H100-SXM", "vllm_graph-0.19.0")]
)
def test_all_reduce_over_nvlink(shared: Path, hardware: str, backend: str, world: int) -> None:
    # Inside CUDA graphs; the goal is 15 %.
    import pandas as pd

    table = pd.read_csv(shared / "measured" / "comm.csv")
    table = table[(table.op == "all_reduce") & (table.hw == hardware) & (table.backend == backend)]
    table = table[table.world == world]
    size = table["bytes"].to_numpy(dtype=float)
    chip = load_hardware(CHIPS[hardware])
    predicted_us = 1e6 * all_reduce_seconds(size, world, chip, generic(chip, "vllm"))
    assert len(table) == 23
    assert median_error(predicted_us, table["us"]) < 0.11


# ---- Iterations (github.com/Mutinifni/splitwise-sim, MIT): Llama-2-70B on A100, a stack of 2023


# Prompts of 4,096 tokens are 15 and 25 % too fast at 4 and 8 devices, by 0.15 s however many share them, which no
# operator explains; the others are 6 % too slow to 8 % too fast.
@pytest.mark.parametrize(("devices", "long_prompts"), [(2, 0.02), (4, 0.16), (8, 0.25)])
def test_prefill_of_70b_on_a100(shared: Path, devices: int, long_prompts: float) -> None:
    import pandas as pd

    table = pd.read_csv(shared / "measured" / "iteration.csv")
    table = table[(table.model == "Llama-2-70b-hf") & (table.phase == "prefill") & (table.batch == 1)]
    table = table[(table.tp == devices) & table.q_len.between(512, 4096)].drop_duplicates("q_len")
    tokens = table["q_len"].to_numpy(dtype=float)
    model = IterationModel(load_model("llama-2-70b"), load_hardware("a100-sxm-80"), parallelism=Parallelism(devices))
    totals = Totals(tokens, np.ones_like(tokens), tokens, tokens * (tokens + 1) / 2)
    milliseconds = 1e3 * eager_seconds(model, totals, generic(stack="pytorch"))
    *slowdowns, longest = 1 - milliseconds / table["ms"].to_numpy()
    assert len(slowdowns) == 3
    assert np.all(np.abs(slowdowns) < 0.085)
    assert 0 < longest < long_prompts
