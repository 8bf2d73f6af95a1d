"""``python -m marspipe``."""

from marspipe.cli import main

if __name__ == "__main__":
    main()
