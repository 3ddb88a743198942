"""`python -m plumbrule` is the command `plumbrule`. Part of the roof."""

from plumbrule.cli.main import main

if __name__ == "__main__":
    main()
