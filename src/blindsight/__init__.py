"""Blindsight."""
