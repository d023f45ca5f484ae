"""ILRec and GISA as Hydra experiment suites; the way in is ``python -m src.run``."""
