"""A small shop that breaks on command, watched by a real Prometheus, foreshock and Alertmanager."""
