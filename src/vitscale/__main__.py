"""`python -m vitscale COMMAND` is `vitscale COMMAND`."""

from vitscale.commands.main import main

if __name__ == "__main__":
    main()
