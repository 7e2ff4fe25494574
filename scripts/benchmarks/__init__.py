"""The benchmarks of scripts/benchmark.py, a module each.

A benchmark module has
  `__doc__`: what is measured, against whom, and what it needs;
  `arguments(parser)`: its own options;
  `measure(args) -> list[dict]`: measures, prints, and returns what `timing.report` made of each pairing;
  `NEEDS`: packages of its peers, of the extra `bench`;
  `QUICK`: options that make it end within half a minute on two cores.
"""
