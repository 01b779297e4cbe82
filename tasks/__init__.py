"""What the broker carries: a few lines each over `headrace`. Only workers import this."""
