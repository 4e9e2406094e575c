"""The error tree. Exit codes are API: Jobs' podFailurePolicy and scripts rely on them.

    0   done
    2   usage or configuration: a person must change something      UsageError, ProfileError, TraceError, EngineError, ForbiddenError
    3   the SLA cannot be met; the nearest achievable is printed    InfeasibleError
    4   a dependency is unreachable: a retry may help               UnreachableError
    75  interrupted, progress saved                                 InterruptedRun

An error a user can cause is one line: what was wrong, the value, what to do. `message` says the first two, `hint` the third; a stage prints
`error: <message>; <hint>` and exits with `exit_code`. Anything that is not a `PlannerError` is a bug and keeps its traceback.
"""

from __future__ import annotations


class PlannerError(Exception):
    """Base of every error that a user, a file or another system can cause.

    `message`: what was wrong, with the value. `hint`: what to do about it (may be empty).
    """

    exit_code: int = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(PlannerError):
    """A flag, an environment variable or a configuration file is wrong."""


class ProfileError(PlannerError):
    """A profile cannot be used. Names the file (added by `store`), the key and the value."""

    def __init__(self, message: str, *, hint: str = "", key: str = "", file: str = "") -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.file = file

    def in_file(self, file: str) -> ProfileError:
        """The same error, told with the file it was found in."""
        return ProfileError(self.message, hint=self.hint, key=self.key, file=file)

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.key) if part)
        text = f"{place}: {self.message}" if place else self.message
        return f"{text}; {self.hint}" if self.hint else text


class TraceError(PlannerError):
    """A traffic trace cannot be used. The message names the file, the line and the value."""


class InfeasibleError(PlannerError):
    """No configuration meets the SLA. The message names the nearest achievable value."""

    exit_code = 3


class UnreachableError(PlannerError):
    """Prometheus, etcd, a frontend or the Kubernetes API did not answer."""

    exit_code = 4


class ForbiddenError(PlannerError):
    """The cluster knows us and refuses: a right is missing. The message names who, the verb, the resource and the namespace."""


class InterruptedRun(PlannerError):
    """Stopped by a signal; what was done is saved and the next run goes on from there."""

    exit_code = 75


class EngineError(PlannerError):
    """An engine did not start, died, or is not what was asked for. The message carries the engine's own words.

    `retry`: starting it again may help (a port that was taken, a node that went away); out of memory and wrong arguments are not of that kind.
    """

    def __init__(self, message: str, *, hint: str = "", retry: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = UnreachableError.exit_code if retry else UsageError.exit_code
