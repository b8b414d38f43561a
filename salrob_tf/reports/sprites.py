"""Many small images as one PNG, inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

BLUE, RED = np.array([33, 102, 172]), np.array([178, 24, 43])  # of signed values; white is zero


def sprite(images: np.ndarray) -> str:
    """Images `(rows, columns, height, width, channels)`, uint8, side by side, as the address of a PNG."""
    rows, columns, height, width, channels = images.shape
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    if channels not in (1, 3):
        sheet = np.repeat(sheet.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(file, "PNG", optimize=True)
    return address(file.getvalue(), "image/png")


def signed(values: np.ndarray) -> np.ndarray:
    """Signed numbers in -1..1 `(..., height, width)` as colours `(..., height, width, 3)`, uint8: red above zero.

    In sixteen steps each way, which nobody tells from more and which make files small.
    """
    strength = np.round(16 * np.minimum(np.abs(values), 1))[..., np.newaxis] / 16
    ends = np.where(values[..., np.newaxis] > 0, RED, BLUE)
    return np.round(255 + strength * (ends - 255)).astype(np.uint8)


def mask(flags: np.ndarray) -> str:
    """Where something holds, boolean `(rows, columns, height, width)`, as the address of a PNG, clear elsewhere."""
    rows, columns, height, width = flags.shape
    file = io.BytesIO()
    sheet = Image.fromarray(flags.transpose(0, 2, 1, 3).reshape(rows * height, columns * width))
    sheet.save(file, "PNG", optimize=True, transparency=0)
    return address(file.getvalue(), "image/png")


def address(content: bytes, kind: str) -> str:
    """Content as an address that a page can hold."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
