"""Examples, run by the tests as a user would."""
