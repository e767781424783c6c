"""Streams of images."""

from typing import TYPE_CHECKING

from samedge.moved import moved_names

if not TYPE_CHECKING:
    __getattr__ = moved_names(__name__)
