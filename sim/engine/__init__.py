"""When it happens: the only place that knows a clock and SimPy."""
