"""Training of the bundled model, which the installed package does not need."""
