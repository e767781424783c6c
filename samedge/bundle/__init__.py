"""Bundles on disk: manifest, archive, staging, engines beside them."""
