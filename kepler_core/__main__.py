"""Entry point of `python -m kepler_core`, which runs the command line `kepler-model`."""

from kepler_core.cli.main import main

if __name__ == "__main__":
    main()
