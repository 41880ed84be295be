"""What several benchmarks need: servers, figures of the machine, memory over time, reports."""
