"""What came out: percentiles, how sure they are, what counts, and whether the server keeps up."""
