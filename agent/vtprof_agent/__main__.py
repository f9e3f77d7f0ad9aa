"""`python -m vtprof_agent`: the same as `vtprof-agent`."""

from vtprof_agent.cli import main

main()
