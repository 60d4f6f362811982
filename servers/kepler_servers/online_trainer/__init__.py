"""The online trainer, a server that retrains the models in a store when the power of the measured machines changes."""
