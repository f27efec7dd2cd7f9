"""The Flower app: run inside Flower, in an environment of its own. Nothing of Blindsight imports flwr."""
