"""The built-in listeners. Each is off until a setting names its output."""
