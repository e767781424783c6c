"""The reference packages that samedge is compared with."""
