"""`errseg serve`: a page that labels the images that are dropped on it.

An upload is hostile until it is checked: `uploads` looks at its header before anything is decoded, `app` counts its
bytes as they come, `guard` lets only the page itself ask. It never touches the disk, and nothing of it is logged.
"""
