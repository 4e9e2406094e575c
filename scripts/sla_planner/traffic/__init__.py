"""What asks: recorded traces, synthetic patterns, and the one streaming client."""
