"""`python -m pocketlm`."""

from pocketlm.cli import main

if __name__ == "__main__":
    main()
