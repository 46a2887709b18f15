"""Tercel: trains, debugs and judges detectors of small, fast and crowded things."""

__version__ = "0.1.0"
