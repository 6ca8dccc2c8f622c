"""What can go wrong in the domain, in its own words."""


class DomainError(Exception):
    """A request that the domain cannot fulfil; its text is fit for whoever asked."""


class NotFoundError(DomainError):
    """There is no such thing.

    Args:
        kind: What was looked for, as a noun.
        key: How it was looked for.
    """

    def __init__(self, kind: str, key: object) -> None:
        super().__init__(f"There is no {kind} {key}.")


class OverloadedError(DomainError):
    """The service has more to do than it can, now.

    Args:
        retry_after: Seconds after which another try is sensible.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("The service is busy; try again later.")
        self.retry_after = retry_after


class PreconditionFailedError(DomainError):
    """What a request was meant for has changed."""

    def __init__(self) -> None:
        super().__init__("It has changed since you last saw it; get it and try again.")
