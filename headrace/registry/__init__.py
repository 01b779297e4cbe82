"""Model packages and their versions."""
