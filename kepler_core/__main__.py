"""`python -m kepler_core` is the command `kepler-model`."""

from kepler_core.cli.main import main

if __name__ == "__main__":
    main()
