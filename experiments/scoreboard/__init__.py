"""Measured operators and iterations in the canonical tables, beside what the cost model says about each row."""
