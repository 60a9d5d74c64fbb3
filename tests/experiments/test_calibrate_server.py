"""Calibration on what a load generator saw of a server: every tool tells the same, and known constants are found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.calibrate import run
from experiments.scoreboard import client_document, clientfit
from experiments.scoreboard.client_document import Server
from experiments.scoreboard.clients import ClientRun, read
from hardware_profiles import load
from sim.physics import calibration
from sim.physics.efficiency import STACKS, generic
from sim.scenario import Scenario, simulate
from workloads.synthetic.chat import chat
from workloads.trace import Trace

MODEL = "meta-llama/Llama-3.2-1B"
TRUE = (2.0, 0.85, 1.0, 2.0)
"""Host and launches, memory, arithmetic, front end."""


def trace() -> Trace:
    """Short requests one by one, whose replies tell weights and fixed times, then long ones, which tell the cache."""
    rng = np.random.default_rng(2)
    alone = np.arange(100) < 50
    arrival = np.where(alone, 0.5 * np.arange(100), 30 + np.cumsum(rng.exponential(0.25, 100)))
    prompt = np.where(alone, rng.integers(20, 200, 100), rng.integers(4000, 16000, 100))
    output = rng.integers(20, 120, 100)
    return Trace(np.sort(arrival), prompt, output, output)


def seen(requests: Trace, factors: tuple[float, ...]) -> tuple[ClientRun, Scenario]:
    """Return a run of an L40S whose constants are known."""
    nothing = np.ones(len(requests))
    start = client_document.scenario(
        load("l40s"), ClientRun("made", MODEL, requests, nothing, nothing), Server(None, 1, "w16a16", "vllm-0.33")
    )
    result = simulate(clientfit.at(start, factors))
    return ClientRun("made", MODEL, requests, result.ttft_seconds, result.tpot_seconds), start


def vllm(client: ClientRun, **changed: Any) -> dict[str, Any]:
    requests, first = client.trace, client.ttft_seconds
    gaps = [
        [tpot] * (length - 1)
        for tpot, length in zip(client.tpot_seconds.tolist(), requests.output_tokens.tolist(), strict=True)
    ]
    columns = {"input_lens": requests.prompt_tokens, "output_lens": requests.output_tokens, "ttfts": first}
    lists = {name: column.tolist() for name, column in columns.items()}
    starts = (1000 + requests.arrival_seconds).tolist()
    run_of = {"model_id": MODEL, "num_prompts": len(first), "request_rate": 2.0, "request_throughput": 2.0}
    return {**run_of, **lists, "itls": gaps, "start_times": starts, "errors": [""] * len(first), **changed}


def rows(client: ClientRun) -> list[tuple[float, int, int, float, float]]:
    requests = client.trace
    ends = client.ttft_seconds + client.tpot_seconds * (requests.output_tokens - 1)
    columns = requests.arrival_seconds, requests.prompt_tokens, requests.output_tokens, client.ttft_seconds, ends
    return list(zip(*(column.tolist() for column in columns), strict=True))


def aiperf(client: ClientRun) -> str:
    lines = []
    for start, prompt, output, first, end in rows(client):
        metrics = {
            "input_sequence_length": {"value": prompt, "unit": "tokens"},
            "output_sequence_length": {"value": output, "unit": "tokens"},
            "time_to_first_token": {"value": 1e3 * first, "unit": "ms"},
            "request_latency": {"value": 1e3 * end, "unit": "ms"},
        }
        metadata = {"request_start_ns": 1e9 * (5 + start), "benchmark_phase": "profiling", "was_cancelled": False}
        lines.append(json.dumps({"metadata": metadata, "metrics": metrics, "error": None}))
    failed = {"metadata": {"was_cancelled": True}, "metrics": {}, "error": {"type": "timeout"}}
    return "\n".join((*lines, json.dumps(failed)))


def guidellm(client: ClientRun) -> str:
    requests = [
        {
            "request_start_time": 100 + start,
            "request_end_time": 100 + start + end,
            "prompt_tokens": prompt,
            "output_tokens": output,
            "time_to_first_token_ms": 1e3 * first,
        }
        for start, prompt, output, first, end in rows(client)
    ]
    return json.dumps({"benchmarks": [{"requests": {"successful": requests, "incomplete": [], "errored": []}}]})


def inference_perf(client: ClientRun, *, nested: bool) -> str:
    requests = []
    for start, prompt, output, first, end in rows(client):
        # Two stream events a token, which is why its own time per output token is half the truth.
        events = np.repeat(np.linspace(start + first, start + end, output), 2).tolist()
        info: dict[str, Any] = {"input_tokens": prompt, "output_tokens": output, "output_token_times": events}
        if nested:
            answer = {"output_tokens": output, "output_token_times": events}
            info = {"request_metrics": {"text": {"input_tokens": prompt}}, "response_metrics": answer}
        requests.append({"start_time": start, "end_time": start + end, "info": info, "error": None})
    return json.dumps(requests)


@pytest.fixture(scope="module")
def small() -> ClientRun:
    requests = chat(np.random.default_rng(1), 30, 2.0, context_tokens=2048)
    client, _ = seen(requests, (1.0,) * 4)
    return replace(
        client, trace=replace(requests, arrival_seconds=requests.arrival_seconds - requests.arrival_seconds[0])
    )


@pytest.mark.parametrize("tool", ["vllm bench serve", "aiperf", "guidellm", "inference-perf", "inference-perf nested"])
def test_every_tool_tells_the_same(tmp_path: Path, small: ClientRun, tool: str) -> None:
    texts = {
        "vllm bench serve": json.dumps(vllm(small)),
        "aiperf": aiperf(small),
        "guidellm": guidellm(small),
        "inference-perf": inference_perf(small, nested=False),
        "inference-perf nested": inference_perf(small, nested=True),
    }
    path = tmp_path / f"result.{'jsonl' if tool == 'aiperf' else 'json'}"
    path.write_text(texts[tool])
    found = read(path)
    assert found.tool == tool.removesuffix(" nested")
    assert found.trace.arrival_seconds == pytest.approx(small.trace.arrival_seconds, abs=1e-6)
    assert found.trace.prompt_tokens.tolist() == small.trace.prompt_tokens.tolist()
    assert found.trace.output_tokens.tolist() == small.trace.output_tokens.tolist()
    assert found.ttft_seconds == pytest.approx(small.ttft_seconds, rel=1e-6)
    assert found.tpot_seconds == pytest.approx(small.tpot_seconds, rel=1e-6, nan_ok=True)


def test_samples_of_the_formats_are_read(shared: Path) -> None:
    for name, tpot in (("made_vllm_bench.json", 0.01), ("made_aiperf_profile_export.jsonl", 0.01)):
        assert read(shared / "formats" / name).tpot_seconds == pytest.approx(tpot)


def test_known_constants_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client, start = seen(trace(), TRUE)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal((2, len(client.trace))))
    client = replace(client, ttft_seconds=client.ttft_seconds * noise[0], tpot_seconds=client.tpot_seconds * noise[1])
    path, out = tmp_path / "bench.json", tmp_path / "mine.toml"
    path.write_text(json.dumps(vllm(client)))
    assert run("l40s", str(path), out=out, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    fixed, memory, arithmetic, front_end = report["factors"].values()
    assert fixed == pytest.approx(TRUE[0], rel=0.2)
    assert memory == pytest.approx(TRUE[1], rel=0.1)
    assert arithmetic == pytest.approx(TRUE[2], rel=0.1)
    assert front_end == pytest.approx(TRUE[3], rel=0.1)
    assert report["held_out_tpot_pct"][0] < 3
    whole, *parts = calibration.read(out)
    assert whole.host_seconds == pytest.approx(fixed * start.host_seconds)
    assert whole.gemm.launch_seconds == pytest.approx(fixed * generic().gemm.launch_seconds, rel=1e-3)
    assert whole.gemm.memory == pytest.approx(memory * generic().gemm.memory, rel=1e-3)
    assert whole.experts == generic().experts  # the model has none
    assert len(parts) == calibration.FOLDS
    assert whole.level.startswith("calibrated: host, gemm")
    # The file is all that a simulation needs: it serves as the server did.
    again = simulate(replace(start, efficiency=whole, front_end_seconds=front_end * start.front_end_seconds))
    assert np.nanmedian(np.abs(again.tpot_seconds / client.tpot_seconds - 1)) < 0.03


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ttfts": None}, "ttfts missing; run vllm bench serve with --save-detailed"),
        ({"start_times": None}, "start_times missing"),
        ({"errors": ["lost"] * 30}, "no request of vllm bench serve has an arrival"),
        ({"model_id": None}, "do not name the model; allowed: --model"),
        ({"model_id": "nobody-1b"}, "unknown model 'nobody-1b'"),
        ({"errors": ["lost"] * 20 + [""] * 10}, "10 requests of vllm bench serve; at least 20"),
    ],
)
def test_what_cannot_be_fitted_is_refused(tmp_path: Path, small: ClientRun, changed: dict[str, Any], says: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(vllm(small, **changed)))
    with pytest.raises(ValueError, match=says):
        run("l40s", str(path), out=tmp_path / "x.toml")


def test_other_files_are_refused(tmp_path: Path, small: ClientRun) -> None:
    path = tmp_path / "odd.json"
    for text, says in (("{", "is not JSON"), ("{}", "is not a result that is known"), ("[1]", "is not a result")):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            read(path)
    twice = json.loads(guidellm(small))
    path.write_text(json.dumps({"benchmarks": twice["benchmarks"] * 2}))
    with pytest.raises(ValueError, match="2 benchmarks in one file"):
        read(path)
    path.write_text(json.dumps([{"start_time": 1.0, "end_time": 2.0, "info": {}}]))
    with pytest.raises(ValueError, match="no request of inference-perf"):
        read(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "nowhere.json")


@pytest.mark.parametrize("stack", [None, *STACKS])
def test_factors_of_one_change_no_constant(stack: str | None) -> None:
    constants = generic(stack=stack)
    assert clientfit.scaled(constants, 1.0, 1.0, 1.0) == constants
