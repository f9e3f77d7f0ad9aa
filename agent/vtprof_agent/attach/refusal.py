"""The one error of attach and detach: why a process is left as it is."""

from vtprof_schemas.errors import BackendError


class Refused(BackendError):
    """A process is not touched, or no further; the text says why and what to do, without naming the process."""


class AlreadyOn(Refused):
    """The process is attached to already; those below it may not be."""


class NotConcerned(Refused):
    """There is nothing to do in the process (no Python, not attached): in a tree it is skipped."""
