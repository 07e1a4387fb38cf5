"""Helpers of the benchmarks: workloads, machine, results, charts."""
