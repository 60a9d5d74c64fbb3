"""Figures: one question each, with the finding as the title; nothing here draws more than can be seen."""

from experiments.shown.figures.load_curves import load_latency, load_latency_alt
from experiments.shown.figures.saving import save
from sim.figures.replica_timeline import timeline, timeline_alt
from sim.figures.survival_curves import survival, survival_alt

__all__ = ["load_latency", "load_latency_alt", "save", "survival", "survival_alt", "timeline", "timeline_alt"]
