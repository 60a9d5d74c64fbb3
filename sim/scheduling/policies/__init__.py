"""Policies: each states an order and a preference, and nothing else."""
