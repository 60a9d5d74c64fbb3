"""Models, chips and iterations for hypothesis: small, but of every kind."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from hardware_profiles.profile import HardwareProfile, Link, Memory
from sim.physics.efficiency import RATES, Efficiency, datasheet, generic
from sim.physics.iteration import IterationModel
from sim.physics.parallelism import Parallelism, allowed_tensor_sizes
from sim.physics.placement import ON_DEVICE, Placement
from sim.physics.precision import PRECISIONS
from sim.physics.totals import Totals
from workloads.models.transformer import LatentAttention, Mixture, Transformer

DENSE = Transformer(
    name="dense",
    title="Dense",
    layers=3,
    hidden=1024,
    query_heads=16,
    kv_heads=4,
    head=64,
    intermediate=4096,
    vocabulary=32000,
    gated=True,
    tied_embeddings=False,
    context=4096,
    checkpoint_dtype="bfloat16",
)
MIXTURE = replace(
    DENSE, name="mixture", mixture=Mixture(16, 2, 512, shared_experts=1, shared_intermediate=512, dense_layers=1)
)
LATENT = replace(MIXTURE, name="latent", latent=LatentAttention(384, 128, 64, 32, 64))
WINDOW = 1000
WINDOWED = replace(DENSE, name="windowed", window=WINDOW, window_layers=2)
MODELS = (
    DENSE,
    replace(DENSE, kv_heads=1, gated=False, tied_embeddings=True, parallel_block=True),
    MIXTURE,
    LATENT,
    WINDOWED,
    replace(WINDOWED, window_layers=WINDOWED.layers),
)

SWITCH = Link("switch", "switch", 300e9, 300e9)
CHIP = HardwareProfile(
    name="chip",
    title="Chip",
    vendor="nobody",
    architecture="none",
    form="card",
    year=2026,
    peak_flops_per_second={"fp16": 300e12, "bf16": 300e12, "fp8": 600e12, "int8": 600e12, "fp4": 1200e12},
    memory=Memory(80 * 2.0**30, 2e12),
    scale_up=SWITCH,
    devices_per_domain=8,
    host_link=Link("PCIe", "pcie", 32e9, 32e9),
    scale_out=Link("network", "switch", 50e9, 50e9),
)
CHIPS = (
    CHIP,
    replace(CHIP, scale_up=Link("mesh", "mesh", 280e9, 40e9)),
    replace(CHIP, scale_up=None, devices_per_domain=1),
)


SMOOTH = replace(
    generic(),
    level="calibrated: nothing",
    **{
        name: replace(getattr(generic(), name), sharpness=1.0 + 0.3 * place)  # from no overlap to nearly full
        for place, name in enumerate(RATES)
    },
)


def efficiencies() -> st.SearchStrategy[Efficiency]:
    return st.sampled_from((generic(), datasheet(), SMOOTH))


PLACEMENTS = (
    Placement("host"),
    Placement("nvme", nvme_bytes_per_second=25e9),
    Placement("host", kv_on="host"),
    Placement(kv_on="host"),
)


def placements() -> st.SearchStrategy[Placement]:
    return st.one_of(st.just(ON_DEVICE), st.sampled_from(PLACEMENTS))


@st.composite
def parallelisms(draw: st.DrawFn, model: Transformer) -> Parallelism:
    """Every way to split a model, also over several servers."""
    pipeline = draw(st.integers(1, model.layers))
    data = draw(st.sampled_from((1, 2, 3))) if model.mixture else 1
    expert = draw(st.sampled_from((1, 2, 3, 8))) if model.mixture else 1
    sizes = allowed_tensor_sizes(model, expert, data)
    if not sizes:
        data, expert, sizes = 1, 1, allowed_tensor_sizes(model)
    return Parallelism(draw(st.sampled_from(sizes)), pipeline, expert, data)


@st.composite
def iteration_models(draw: st.DrawFn, split: Parallelism | None = None) -> IterationModel:
    model = draw(st.sampled_from(MODELS))
    split = split or draw(parallelisms(model))
    precisions = [one for one in PRECISIONS.values() if model.mixture or not one.experts_only]
    return IterationModel(
        model,
        draw(st.sampled_from(CHIPS)),
        draw(st.sampled_from(precisions)),
        split,
        draw(efficiencies()),
        draw(st.sampled_from((0.0, 300e-6))),
        routing_skew=draw(st.sampled_from((0.0, 0.7))),
        exchange=draw(st.sampled_from(("all-gather", "all-to-all"))),
        placement=draw(placements()) if split.pipeline == split.data == 1 else ON_DEVICE,
    )


@st.composite
def iterations(draw: st.DrawFn) -> Totals:
    """One iteration that could happen: some decoding sequences and some prefill chunks behind cached tokens."""
    contexts = draw(st.lists(st.integers(1, 30_000), max_size=5))
    chunks = draw(st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 30_000)), max_size=3))
    return Totals(
        tokens=float(len(contexts) + sum(chunk for chunk, _ in chunks)),
        samples=float(len(contexts) + len(chunks)),
        prefill_tokens=float(sum(chunk for chunk, _ in chunks)),
        prefill_pairs=float(sum(chunk * cached + chunk * (chunk + 1) // 2 for chunk, cached in chunks)),
        prefill_kv_tokens=float(sum(cached for _, cached in chunks)),
        decode_sequences=float(len(contexts)),
        decode_kv_tokens=float(sum(contexts)),
        window_pairs=float(sum(min(place, WINDOW) for chunk, k in chunks for place in range(k + 1, k + chunk + 1))),
        window_kv_tokens=float(sum(min(cached, WINDOW - 1) for _, cached in chunks)),
        window_decode_kv_tokens=float(sum(min(context, WINDOW) for context in contexts)),
    )
