"""How a run looks: the style that all figures share, and those that a single result draws of itself."""
