"""The program `kepler-model`. Each group of commands has a module, which is imported when the group is called."""
