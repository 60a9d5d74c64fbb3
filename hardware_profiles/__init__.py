"""What machines are: one profile per chip, every number with its source."""
