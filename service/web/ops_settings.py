"""The settings that this process runs with, as the ops page shows them."""

from service.settings import Settings
from service.settings_report import MASK, SettingReport, report_settings


def shown_settings(settings: Settings) -> list[dict[str, str]]:
    """Each setting's variable with its value, and where that came from.

    Args:
        settings: The service's. A URL is masked as a whole: what is sent over the network names no
            host and no user.
    """
    return [
        {"name": one.name, "value": _text(one), "source": one.source}
        for one in report_settings(settings)
    ]


def _text(one: SettingReport) -> str:
    if one.value is None:
        return ""
    return MASK if "URL" in one.name else f"{one.value} {one.unit}".rstrip()
