"""What benchmarks share: workloads, machine, results, charts."""
