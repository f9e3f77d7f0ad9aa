"""Starts the probe in every Python process below `vtprof-agent exec`, without a change to the user's script.

Python runs this file at start-up because its folder is on PYTHONPATH. It waits for the import of an engine and only
then loads the probe; elsewhere it costs a set lookup per import. Any Python may read it: the probe needs 3.9, so
older ones do nothing, and the syntax here is theirs too. The next sitecustomize on the path runs as if this were not.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,import-not-found"
import os
import sys

TRIGGERS = frozenset(
    ["sglang", "transformers", "vllm"]
)  # the engines' own top-level modules, as in vtprof_probe.engines.registry


class _Waiting(object):
    """A finder that finds nothing: it enables the probe when an engine's import begins, and leaves."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in TRIGGERS:
            return None
        try:
            sys.meta_path.remove(self)
            import vtprof_probe

            vtprof_probe.enable()
        except Exception:  # a guest: the user's program goes on, whatever happened to us
            return None
        # The probe's own finder now stands before the place where the import system is in the list: ask from the start.
        for finder in list(sys.meta_path):
            spec = finder.find_spec(fullname, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                return spec
        return None


def _run_next():
    """Run the sitecustomize that this one hides, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    hidden = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    path, sys.path[:] = list(sys.path), hidden
    this = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        # Whatever the other one added to the path stays.
        added = [entry for entry in sys.path if entry not in hidden]
        sys.path[:] = path + added
        if this is not None:
            sys.modules.setdefault("sitecustomize", this)


if os.environ.get("VTPROF_ENABLE") == "1" and sys.version_info >= (3, 9):
    sys.meta_path.insert(0, _Waiting())
if __name__ == "sitecustomize":
    _run_next()
