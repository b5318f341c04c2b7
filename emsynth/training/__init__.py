"""Training restorers: from a recipe and a field library to weights."""
