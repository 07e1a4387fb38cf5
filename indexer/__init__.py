"""Batch indexing with Qwen3-Embedding: Parquet corpora in, LanceDB tables at several Matryoshka widths out."""
