"""Fixtures and profiles that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of public traces, measurements and facts; skip where a user has none."""
    root = Path(os.environ.get("ROOFSERVE_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "traces").is_dir():
        if os.environ.get("ROOFSERVE_REQUIRE_SHARED") == "1":
            pytest.fail(f"ROOFSERVE_REQUIRE_SHARED=1, but {root} does not exist")
        pytest.skip(f"no shared data at {root}; set ROOFSERVE_SHARED to a folder that has traces/, facts/, measured/")
    return root
