"""`python -m service`, the same as `tidegate`."""

import sys


def main() -> None:
    """Run a command.

    A container's health check runs `tidegate probe` every few seconds, and importing what all
    the other commands need would be most of its work; so that one is told apart first.
    """
    if sys.argv[1:] in (["probe", "live"], ["probe", "ready"], ["probe", "startup"]):
        from service.cli.probe import ask  # noqa: PLC0415 - the point of it

        sys.exit(ask(sys.argv[2]))
    from service.cli.main import run  # noqa: PLC0415 - as above

    run()


if __name__ == "__main__":
    main()
