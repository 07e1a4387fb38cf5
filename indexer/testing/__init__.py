"""Stand-ins for tests and benchmarks: fake engines, random weights, tokenizers, corpora. No run imports it."""
