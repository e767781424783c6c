"""Doubles, small models and readers that several test modules share."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
"""The folder that child processes put on their path to import this package."""
