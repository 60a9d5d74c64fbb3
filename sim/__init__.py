"""How long, what next, and when: an analytical roofline simulator of LLM serving."""
