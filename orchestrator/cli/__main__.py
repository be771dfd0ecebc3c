"""`python -m orchestrator.cli`."""

from orchestrator.cli.command import main

main()
