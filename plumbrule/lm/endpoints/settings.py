"""The checks that every section of the config shares that names an endpoint. No torch here."""

from __future__ import annotations

from typing import Any

from plumbrule.config import require, require_range
from plumbrule.lm.endpoints.addresses import require_url


def require_endpoint(name: str, config: Any) -> None:
    """Raise ConfigError unless the section `name` can be asked; one without `url` is none.

    Args: config: has the fields of `EndpointSettings`.
    """
    require_range(f"{name}.max_reply_tokens", config.max_reply_tokens, 1, 65_536, "tokens")
    require_range(f"{name}.num_requests", config.num_requests, 1, 256, "requests")
    require_range(f"{name}.timeout_seconds", config.timeout_seconds, 0.001, 86_400.0)
    require_range(f"{name}.patience_seconds", config.patience_seconds, 0.0, 1e7)
    if config.url is not None:
        require_url(f"{name}.url", config.url, f"{name}.token_env")
    for setting, value in (("model", config.model), ("token_env", config.token_env)):
        require(
            value is None or config.url is not None,
            f"{name}.{setting}",
            value,
            f"be null without {name}.url",
            "name the endpoint too, or take it out",
        )
    require(
        bool(config.model) or config.url is None,
        f"{name}.model",
        config.model,
        f"name a model of {name}.url (={config.url})",
        "give the name that the endpoint lists",
    )
