"""The article that asked for all this: its tables as data, its statements, and what became of each."""
