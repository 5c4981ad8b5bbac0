"""Everything about the model that scores: where it is, what it takes and gives, and what it needs."""
