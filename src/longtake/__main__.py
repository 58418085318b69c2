"""`python -m longtake` is `longtake`."""

from longtake.cli import main

if __name__ == "__main__":
    main()
