"""Backbones and the heads around them."""
