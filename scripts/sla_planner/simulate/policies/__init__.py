"""The planner and its alternatives, each a `policy.Policy`."""
