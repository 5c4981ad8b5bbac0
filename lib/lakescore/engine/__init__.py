"""A DataFrame and a model in, the DataFrame with predictions out. ``guard`` is what runs on executors and stands apart."""
