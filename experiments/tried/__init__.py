"""How a question is tried: the runs, searches and comparisons behind an answer."""
