"""Models in this process: checkpoint, tokenizer, vLLM engine, widths. The only package that imports vLLM."""
