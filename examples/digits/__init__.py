"""Handwritten digits: train a small network, serve it, and check every answer."""
