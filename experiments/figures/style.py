"""Another name of `sim.figures.style`."""

from experiments.figures.saving import save as save
from sim.figures.style import *  # noqa: F403
