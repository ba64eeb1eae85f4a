"""The signature of an envelope: HMAC-SHA256, by a key that the function and nobody else has.

The first key signs. Each is accepted, so that a key can be replaced while chains are on their way.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import contextvars

    from deadline.aws._runtime.own_client import OwnClient

ENVIRONMENT: Final = "DEADLINE_RESUME_KEY"
ARN: Final = "arn:"
"""How the ARN of a secret begins; what begins so is no key."""

SHORTEST: Final = 32
"""Bytes of a key: as many as SHA-256 gives (RFC 2104, section 3)."""

FRESH: Final = 300.0
"""Seconds, of this machine's wall clock, for which a secret is not read again."""

DIGITS: Final = 64
_PURPOSE: Final = b"deadline.aws.Resume 1\0"


def signature(key: bytes, function: str, fields: dict[str, Any]) -> str:
    """The signature of an envelope's fields, for one function.

    It is of the values, not of their text. What carries an envelope may write its JSON in another way, but it
    has to leave numbers as they are (`1.0` is not `1`).

    Raises:
        ValueError: A number is none of JSON's, or the values are nested too deeply.
    """
    try:
        text = json.dumps([function, fields], sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return hmac.new(key, _PURPOSE + text.encode(), hashlib.sha256).hexdigest()


def is_signed(keys: tuple[bytes, ...], function: str, envelope: dict[str, Any]) -> bool:
    """Whether one of the keys has signed an envelope."""
    fields = dict(envelope)
    given = fields.pop("signature", None)
    if type(given) is not str or len(given) != DIGITS or not given.isascii():
        return False
    try:
        return any(hmac.compare_digest(signature(key, function, fields), given) for key in keys)
    except ValueError:
        return False


class Keys:
    """The keys of a `Resume`, in the order in which they are used.

    Args:
        given: A key, one or more of them, or the ARN of a secret.

    Attributes:
        client: What reads the secret, if it is one.
    """

    def __init__(self, given: Any) -> None:
        self.client: OwnClient | None = None
        self._secret = ""
        self._read = -FRESH
        self._keys: tuple[bytes, ...] = ()
        if isinstance(given, str) and given.startswith(ARN):
            from deadline.aws._runtime.own_client import OwnClient  # noqa: PLC0415  # most need no client

            self._secret = given
            self.client = OwnClient("secretsmanager", region=given.split(":")[3])
        else:
            several = given if isinstance(given, list | tuple) and given else (given,)
            self._keys = tuple(_key(one) for one in several)

    async def current(self, outside: contextvars.Context, *, fresh: bool = False) -> tuple[bytes, ...]:
        """The keys; a secret is read once in `FRESH` seconds, and now if `fresh`.

        Raises:
            ValueError: The secret is no key.
            Exception: The secret was never read, and cannot be.
        """
        if self.client is None or (time.time() - self._read < FRESH and not fresh):
            return self._keys
        try:
            self._keys = await self._from_secret(self.client, outside)
            self._read = time.time()
        except Exception:
            if not self._keys:
                raise
        return self._keys

    async def _from_secret(self, client: OwnClient, outside: contextvars.Context) -> tuple[bytes, ...]:
        """The current version and, if there is one, the one before: what a rotation leaves."""
        from botocore.exceptions import ClientError  # noqa: PLC0415  # importing deadline.aws loads no SDK

        keys: list[bytes] = []
        for stage in ("AWSCURRENT", "AWSPREVIOUS"):
            request = {"SecretId": self._secret, "VersionStage": stage}
            try:
                answer = await client.call("GetSecretValue", request, outside)
            except ClientError as error:
                if keys and error.response["Error"]["Code"] == "ResourceNotFoundException":
                    break
                raise
            keys.append(_key(answer.get("SecretString") or answer.get("SecretBinary")))
        return tuple(keys)


def _key(given: Any) -> bytes:
    """A key as bytes. No message has a word of it."""
    if isinstance(given, str):
        given = given.encode()
    if not isinstance(given, bytes):
        raise TypeError(
            "key: expected bytes, a text, a tuple of them, or the ARN of a secret of Secrets Manager, "
            f"got {type(given).__name__}"
        )
    if len(given) < SHORTEST:
        raise ValueError(
            f"key: {len(given)} bytes are too few, in {ENVIRONMENT} as well, and {SHORTEST} is the least; "
            'make one with python -c "import secrets; print(secrets.token_hex(32))"'
        )
    return given
