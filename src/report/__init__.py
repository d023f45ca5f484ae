"""Tables and plots over runs and sweeps: ``python -m src.report FOLDER...``."""
