"""Published weights -> our parameters."""
