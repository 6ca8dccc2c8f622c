"""What the application itself knows of its end: that new clients should go elsewhere."""


class Drain:
    """Whether this process is about to stop.

    Whoever serves the application begins it (`service/web/worker.py`), `/readyz` tells of it.

    Attributes:
        is_draining: From the signal on, for as long as requests are still served.
    """

    def __init__(self) -> None:
        self.is_draining = False

    def begin(self) -> None:
        """Be unready from now on; there is no way back."""
        self.is_draining = True
