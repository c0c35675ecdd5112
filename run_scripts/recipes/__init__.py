"""The recipes that ship with the package; `renaissance recipes` lists them."""
