"""What is asked of the machines: traces, generators of traces, and model architectures."""
