"""Networks of methods written anew in PyTorch, which the benchmarks time beside ours."""
