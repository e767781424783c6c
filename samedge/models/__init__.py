"""Torch modules written for export, and safe checkpoint readers. Imports torch; nothing below it may."""
