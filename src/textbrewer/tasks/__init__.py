"""What a task needs around a model: rows, batches and scores."""
