"""Heads. Each is five functions: forward (its `net`), encode, loss, decode, ideal (docs/heads.md).

A new head: one module here, one line in `build_head`, one configuration class in tercel/config.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from tercel.config import BoxHead
from tercel.core.schema import Schema
from tercel.models.heads.boxes import DenseBoxes


def build_head(config: BoxHead, schema: Schema, strides: Sequence[int]) -> DenseBoxes:
    """The head that a configuration class stands for."""
    return DenseBoxes(config, len(schema.classes), tuple(strides))
