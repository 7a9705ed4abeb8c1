"""`errseg data ...`: what is done with a data set before it trains; each command is a file of this package."""
