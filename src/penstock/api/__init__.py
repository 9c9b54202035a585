"""The HTTP door: one shell around every service's routes; no rules of any service."""
