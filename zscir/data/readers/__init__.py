"""Read URL lists, caption files and archives that people hand in."""
