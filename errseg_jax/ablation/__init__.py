"""`errseg ablate`: rows are trained and scored, then told in tables and plots."""
