"""The echo model of the conformance table for Forebay. Run: forebay serve forebay_echo.py:Echo"""

import forebay


class Echo(forebay.Model):
    """Gives its three inputs back."""

    inputs = {"x": ("FP32", [2]), "n": ("INT64", [2]), "t": ("BYTES", [1])}
    outputs = {"same": ("FP32", [2]), "count": ("INT64", [2]), "text": ("BYTES", [1])}

    def predict(self, x, n, t):
        """`x`: float32 [rows, 2]; `n`: int64 [rows, 2]; `t`: bytes [rows, 1]. Returns them."""
        return x, n, t
