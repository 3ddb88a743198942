"""What vectors an index takes, of passages and of queries: finite, and all of one length."""

from __future__ import annotations

import numpy as np

from plumbrule.errors import ConfigError


def require_vectors(vectors: np.ndarray, what: str = "passages' vectors") -> None:
    """Raise ConfigError for vectors that no index can hold: NaN or infinite numbers among them."""
    step = 65_536
    for start in range(0, len(vectors), step):
        sound = np.isfinite(vectors[start : start + step]).all(axis=1)
        if not sound.all():
            row = start + int(np.flatnonzero(~sound)[0])
            raise ConfigError(
                f"{what} (row {row}) must be finite, and hold NaN or Inf; the encoder is damaged, "
                "or was read in a precision that it does not stand."
            )


def require_queries(vectors: np.ndarray, dimensions: int) -> None:
    """Raise ConfigError for queries' vectors of another length than the index's, or with NaN."""
    if vectors.ndim != 2 or vectors.shape[1] != dimensions:
        raise ConfigError(
            f"queries' vectors (={vectors.shape} numbers) must have the index's {dimensions} "
            "dimensions; encode them with the encoder of the index."
        )
    require_vectors(vectors, "queries' vectors")
