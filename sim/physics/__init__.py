"""How long one iteration of a language model takes on given hardware: arrays in, seconds out."""
