"""The errors a user can cause or repair, one class for each thing the user would do next.

Every message says what happened, to which file or device, and what to do. The slugs are headings of
``schemas/messages.md``. Bugs are not wrapped: they keep their traceback.
"""


class VtprofError(Exception):
    """Base of all errors that a command prints as one line and turns into exit code 2."""

    slug = "error"
    exit_code = 2


class ConfigError(VtprofError):
    """A flag, environment variable or config file has to be edited."""

    slug = "config"


class DataError(VtprofError):
    """An input file cannot be used as it is."""

    slug = "data"


class NoData(VtprofError):
    """There is nothing to work on: record or point to a run first."""

    slug = "no-data"


class RuleError(VtprofError):
    """A rule pack has to be fixed."""

    slug = "rule"


class BackendError(VtprofError):
    """A device, driver, permission or optional package is missing."""

    slug = "backend"
