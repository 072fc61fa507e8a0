"""What a run tells: rows of metrics, loggers, and validations off the training path."""
