"""Workloads made rather than recorded: a `numpy.random.Generator` goes in, a `Trace` comes out."""
