"""What acceptance and chaos tests share: real processes, an HTTP client, a webhook receiver."""

from __future__ import annotations
