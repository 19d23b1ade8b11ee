"""When a failed request is worth another try, after which pause, and what is said when it is not."""

from __future__ import annotations

import random
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from trtbuild.console import log
from trtbuild.errors import FetchError
from trtbuild.fetch.refusals import RetryableError, Subject, UnreachableError

if TYPE_CHECKING:
    from trtbuild.fetch.http import Client


MAX_PAUSE_S = 300.0


class Failures:
    """Counts failures in a row, waits between them, and gives up in words."""

    def __init__(self, client: Client, subject: Subject) -> None:
        self._client, self._subject = client, subject
        self._count = 0

    def reset(self) -> None:
        """Restart the count: something arrived."""
        self._count = 0

    def add(self, error: RetryableError) -> None:
        """Wait as long as the server asked, or longer each time.

        Raises:
            FetchError: There is no point in trying again.
        """
        self._count += 1
        # A user whose network never worked wants to know now; a download at 80% is worth waiting for.
        limit = 3 if error.is_unreachable and not self._client.has_worked else self._client.tuning.attempts
        if self._count >= limit or (error.after_s or 0.0) > MAX_PAUSE_S:
            raise self._final(error) from error
        wait_s = error.after_s if error.after_s is not None else min(30.0, 0.5 * 2 ** (self._count - 1))
        wait_s *= 1.0 if error.after_s is not None else random.uniform(0.75, 1.25)  # noqa: S311 - spreads load only
        what = self._subject.path or self._subject.model_id
        message = f"{what}: {error}; trying again in {wait_s:.0f} s ({self._count} of {limit - 1})"
        log.get().warning("download-retry", message, wait_s=round(wait_s, 1))
        self._client.pause(wait_s)

    def _final(self, error: RetryableError) -> FetchError:
        hub, subject = self._client.hub, self._subject
        what = f"{subject.path} of {subject.model_id}" if subject.path else subject.model_id
        if error.is_unreachable:
            return UnreachableError(
                f"no connection to the hub for {what}: {error}",
                hint=f"check the network, HTTPS_PROXY/NO_PROXY and HF_ENDPOINT ({hub.endpoint}); "
                "with HF_HUB_OFFLINE=1 only the cache is used",
            )
        if error.after_s is not None:
            return UnreachableError(
                f"the hub is too busy for {what}: {error}, and asks to wait {error.after_s:.0f} s",
                hint="run the same command later; what was downloaded is kept"
                + ("" if hub.token else ". With an access token (HF_TOKEN) the limits are higher"),
            )
        return UnreachableError(
            f"{what} could not be downloaded after {self._count} attempts: {error}",
            hint="run the same command again; what was downloaded is kept",
        )


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds a server asks to wait, given as a number or a date, or None.

    Source: RFC 9110 section 10.2.3; the hub's own ``RateLimit: "api";r=0;t=55`` header.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        fields = dict(part.strip().partition("=")[::2] for part in headers.get("RateLimit", "").split(";"))
        text = fields.get("t", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError):
        return None
