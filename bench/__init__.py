"""Benchmarks: `python -m bench NAME [--json FILE] [--quick]`. Figures with their machine, beside what they are compared to."""
