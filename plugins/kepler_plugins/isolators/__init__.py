"""What is taken away from measured power before it is dynamic power."""
