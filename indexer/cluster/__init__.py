"""The Ray cluster, its workers and the pipeline on each. The only package that imports Ray."""
