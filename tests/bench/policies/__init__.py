"""What `bench_policies.py` is made of."""
