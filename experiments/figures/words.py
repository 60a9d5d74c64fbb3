"""Another name of `sim.figures.words`."""

from sim.figures.words import *  # noqa: F403
