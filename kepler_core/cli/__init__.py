"""The program `kepler-model`. Each group of commands has a module, which is imported only when it is needed."""
