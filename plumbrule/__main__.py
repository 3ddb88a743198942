"""`python -m plumbrule` is the command `plumbrule`."""

from plumbrule.cli.entry import main

if __name__ == "__main__":
    main()
