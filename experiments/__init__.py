"""One module per question; `python -m experiments.run` is the command line."""
