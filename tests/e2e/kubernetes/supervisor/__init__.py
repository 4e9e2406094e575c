"""Builds, starts, supervises and ends a Kubernetes of one node. Only the standard library: it must run before anything is installed."""
