"""Which service on this machine is meant."""

from service.database.settings import SettingsError, environment_variables

_DEFAULT = 8000


def service_port() -> int:
    """The port of the service: `PORT`, of the variables or `.env`.

    The other settings are not read: one that is wrong must not keep an operator out.

    Raises:
        SettingsError: It is no number.
    """
    text = environment_variables().get("PORT") or str(_DEFAULT)
    try:
        return int(text)
    except ValueError:
        raise SettingsError("PORT: not a number; set it to the service's port") from None
