"""What a mixture of experts costs under the kernels of each library, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from physics_strategies import CHIP, MIXTURE

from hardware_profiles import load
from sim.physics import expert_kernels as kernels
from sim.physics.efficiency import SLOW_START, STACKS, generic
from sim.physics.iteration import IterationModel
from sim.physics.operators import expert_operators, layer_operators
from sim.physics.parallelism import Parallelism
from sim.physics.precision import PRECISIONS, Precision
from sim.physics.roofline import Rate
from workloads.models import load as load_model

TOKENS = np.array([1.0, 64.0, 4096.0])


@pytest.mark.parametrize(
    ("chip", "stack", "wide", "narrow"),
    [
        ("a100-sxm-80", "vllm", kernels.TRITON.scaled(SLOW_START, 1.0, 1.0), kernels.TRITON),
        ("l40s", "vllm", kernels.TRITON, kernels.TRITON),
        ("h200-sxm", "vllm", kernels.TRITON, kernels.FLASHINFER_FP8_ON_HOPPER),
        ("b200-sxm", "vllm", kernels.FLASHINFER, kernels.FLASHINFER),
        ("rtx-pro-6000-server", "vllm", kernels.FLASHINFER, kernels.FLASHINFER),
        ("h200-sxm", "trtllm", kernels.TENSORRT_LLM, kernels.TENSORRT_LLM),
        ("h200-sxm", None, kernels.BETWEEN, kernels.BETWEEN),
    ],
)
def test_a_library_has_its_kernels_for_every_chip(chip: str, stack: str | None, wide: Rate, narrow: Rate) -> None:
    constants = generic(load(chip), stack)
    assert (constants.experts, constants.experts_8bit, constants.experts_block) == (wide, narrow, kernels.BETWEEN)
    assert constants.experts_narrow_weights != kernels.FLASHINFER  # which has none for such weights


@pytest.mark.parametrize("stack", STACKS)
def test_no_chip_at_all_has_the_kernels_of_most(stack: str) -> None:
    assert generic(stack=stack).experts == generic(load("h100-sxm"), stack).experts


def experts_seconds(rate: Rate, precision: Precision, expert: int) -> np.ndarray:
    """Experts of one layer."""
    constants = replace(generic(), experts=rate, experts_8bit=rate)
    model = IterationModel(MIXTURE, CHIP, precision, Parallelism(expert, expert=expert), constants)
    (operator,) = expert_operators(MIXTURE, precision, model.parallelism, TOKENS)
    return model.kernel_seconds(operator)


def test_visits_to_other_devices_cost_what_a_kernel_moves_of_them() -> None:
    plain = Rate(0.0, 1.0, 1.0, "made up", sharpness=1.0)
    for expert in (1, 2, 4):
        precision = PRECISIONS["w16a16"]
        there, all_of_them = (experts_seconds(replace(plain, elsewhere=part), precision, expert) for part in (0.0, 1.0))
        assert MIXTURE.mixture
        width = MIXTURE.mixture.intermediate
        away = TOKENS * MIXTURE.mixture.experts_per_token * (1 - 1 / expert)
        each = 2.0 * (3 * MIXTURE.hidden + 2 * MIXTURE.hidden + 4 * width + 2 * width)  # 16 bits: in, out, inside
        bandwidth = CHIP.memory.bandwidth_bytes_per_second
        assert all_of_them - there == pytest.approx(away * each / bandwidth, rel=1e-6, abs=1e-15)


def test_a_tile_for_every_expert_that_is_met_costs_most_where_each_has_few_rows() -> None:
    plain = Rate(0.0, 1.0, 1.0, "made up", sharpness=1.0)
    tiled = replace(plain, step_seconds=1e-12)
    added = experts_seconds(tiled, PRECISIONS["fp8"], 1) - experts_seconds(plain, PRECISIONS["fp8"], 1)
    assert MIXTURE.mixture
    weights = 3 * MIXTURE.hidden * MIXTURE.mixture.intermediate
    met = 16 * (1 - (1 - 2 / 16) ** TOKENS)
    assert added == pytest.approx(met * weights * 1e-12, rel=1e-6)
    assert added[2] / TOKENS[2] < added[0] / TOKENS[0] / 100


@pytest.mark.parametrize(
    ("name", "kind"),
    [("w16a16", ""), ("fp8", "_8bit"), ("fp8_block", "_block"), ("w4a4", "_4bit"), ("w4a16", "_narrow_weights")],
)
def test_every_kind_of_format_has_constants_of_its_own(name: str, kind: str) -> None:
    model = IterationModel(MIXTURE, CHIP, PRECISIONS[name])
    constants = model.efficiency
    assert model.rates["gemm"][0] == getattr(constants, f"gemm{kind}")
    assert model.rates["experts"][0] == getattr(constants, f"experts{kind}")
    assert model.rates.get("quantise", (None,))[0] == getattr(constants, f"quantise{kind}", None)


def test_a_format_of_experts_alone_leaves_everything_else_in_16_bits() -> None:
    whole, experts = (IterationModel(MIXTURE, CHIP, PRECISIONS[name]) for name in ("w16a16", "mxfp4"))
    assert experts.rates["experts"][0] == experts.efficiency.experts_mxfp4
    assert {**experts.rates, "experts": None} == {**whole.rates, "experts": None}
    mine, others = (
        {each.name: each for each in layer_operators(MIXTURE, one.precision, one.parallelism, TOKENS)}
        for one in (experts, whole)
    )
    assert mine.keys() == others.keys()
    for name, operator in mine.items():
        np.testing.assert_array_equal(operator.flops, others[name].flops)
        assert (name == "experts") == bool((operator.moved_bytes < others[name].moved_bytes).all())


def test_a_format_of_experts_alone_needs_experts() -> None:
    with pytest.raises(ValueError, match=r"'mxfp4' is one of routed experts, and .* has none; allowed are w16a16, fp8"):
        IterationModel(load_model("llama-2-13b"), CHIP, PRECISIONS["mxfp4"])


@pytest.mark.parametrize(
    ("chip", "stack", "found"),
    [
        ("b200-sxm", "vllm", kernels.MXFP4_ON_BLACKWELL),
        ("h100-sxm", "vllm", kernels.MXFP4_ON_HOPPER),
        ("l40s", "vllm", kernels.marlin(load("l40s"))),
        ("h100-sxm", "trtllm", kernels.TENSORRT_LLM),
        ("h100-sxm", None, kernels.BETWEEN),
    ],
)
def test_vllm_has_kernels_for_mxfp4_on_hopper_and_blackwell(chip: str, stack: str | None, found: Rate) -> None:
    assert generic(load(chip), stack).experts_mxfp4 == found
