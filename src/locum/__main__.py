"""`python -m locum`."""

from locum.cli import main

main()
