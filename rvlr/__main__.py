"""`python -m rvlr STAGE`, as every rule calls it."""

from rvlr.cli import main

if __name__ == "__main__":
    main()
