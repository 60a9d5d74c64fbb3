"""What runs next: sequences, the ledger that refuses what does not fit, KV blocks, and one file per policy."""
