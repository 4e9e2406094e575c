"""What a person can put right: one line on stderr, exit status 125, so that it is told from the status of the command that was run."""


class ClusterError(Exception):
    """What went wrong, and what to do."""
