"""`python -m renaissance_cli` is the command `renaissance`, for launchers such as torchrun that start modules."""

from .main import main


if __name__ == "__main__":
    main()
