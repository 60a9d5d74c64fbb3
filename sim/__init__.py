"""How long, what next, and when: an analytical roofline simulator of LLM serving."""

from sim.machine import Machine
from sim.results.goodput import Objectives
from sim.results.result import Result
from sim.scenario import Scenario, simulate, simulate_cluster

__all__ = ["Machine", "Objectives", "Result", "Scenario", "simulate", "simulate_cluster"]
