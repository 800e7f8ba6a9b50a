"""``python -m textbrewer`` is the command ``textbrewer``."""

from .cli import main

if __name__ == "__main__":
    main()
