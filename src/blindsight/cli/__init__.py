"""The command line: ``blindsight demo | schema | fit | score | report | ledger | doctor``."""

from ._app import app, main

__all__ = ["app", "main"]
