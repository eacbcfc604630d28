"""Other people's frameworks: what makes our models theirs. Each module needs the extra of its name."""
