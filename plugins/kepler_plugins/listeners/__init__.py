"""The built-in listeners. Each listener does nothing until its setting is given, e.g. KEPLER_AUDIT_LOG."""
