"""What an engine can do: profiles, latency laws, interpolation, quality gates. Pure: no I/O, no clock, no log."""
