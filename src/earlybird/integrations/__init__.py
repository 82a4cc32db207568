"""Bridges to other software: exchange formats (`export`)."""
