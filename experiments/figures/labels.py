"""Another name of `sim.figures.labels`."""

from sim.figures.labels import *  # noqa: F403
