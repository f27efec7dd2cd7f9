"""``python -m blindsight``: the command line."""

from blindsight.cli import main

if __name__ == "__main__":
    main()
