"""Text that goes out to a client and is taken back only if we wrote it."""

import base64
import hashlib
import hmac
from typing import Final

# 128 bits: nobody guesses a tag, and a cursor stays short.
_TAG_BYTES: Final = 16


def seal(content: bytes, key: bytes, context: bytes) -> str:
    """Write content down with a tag that only a holder of the key can make.

    The content is not secret: whoever has the text can read it.

    Args:
        content: What to write down.
        key: The key of the deployment.
        context: What the text is for; it is not a part of the text, and needed to open it.

    Returns:
        Text of letters, digits, `-` and `_`.
    """
    # With the length in front, nothing can move from the context to the content.
    message = len(context).to_bytes(4, "big") + context + content
    tag = hmac.digest(key, message, hashlib.sha256)[:_TAG_BYTES]
    return base64.urlsafe_b64encode(tag + content).decode().rstrip("=")


def unseal(text: str, key: bytes, context: bytes) -> bytes:
    """Read back what `seal` wrote with the same key and context.

    Args:
        text: What `seal` returned, or whatever else a client sent.
        key: The key of the deployment.
        context: What the text is for.

    Raises:
        ValueError: The text is not exactly what `seal` wrote.
    """
    content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[_TAG_BYTES:]
    # The whole text is compared, and not the tag alone: base64 has several spellings of some bytes.
    if not hmac.compare_digest(seal(content, key, context), text):
        raise ValueError("not sealed with this key for this context")
    return content
