"""Whether revisions can be applied while the service runs, told from their SQL."""

from typing import Final

# The oldest that is still maintained.
OLDEST_POSTGRESQL: Final = "14.0"
