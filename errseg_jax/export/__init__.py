"""`errseg export`: a trained network as programs of `jax.export` that run without this package.

`program` makes them, `card` says what they are, `example` runs them, `check` compares, `command` writes the folder.
"""
