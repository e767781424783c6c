"""Test doubles for the product and for programs that embed it."""
