"""What machines are: one profile per chip, every number with its source."""

from __future__ import annotations

from hardware_profiles.profile import Evidence, HardwareProfile, Link, Memory, available, load

__all__ = ["Evidence", "HardwareProfile", "Link", "Memory", "available", "load"]
