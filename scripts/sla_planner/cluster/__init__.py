"""The only room that changes a fleet: Kubernetes scale targets, and virtual targets (a file, etcd keys) for everything else."""
