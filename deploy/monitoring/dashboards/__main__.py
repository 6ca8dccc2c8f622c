"""Write the dashboards where Grafana finds them."""

from pathlib import Path

from deploy.monitoring.dashboards.generate import DIRECTORY, dashboards


def main(directory: Path = DIRECTORY) -> None:
    """Write one file for each dashboard."""
    for name, text in dashboards().items():
        (directory / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
