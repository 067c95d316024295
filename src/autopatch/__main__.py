"""`python -m autopatch`: the command line."""

from autopatch.cli import main

if __name__ == "__main__":
    main()
