"""Verbs by which a run is repeated and checked: rerun, bundle, check."""
