"""Training, evaluation and prediction. Importing it imports no torch; its modules do."""
