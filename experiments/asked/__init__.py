"""What a question may be asked with: options, requests, candidates, promises and assumptions."""
