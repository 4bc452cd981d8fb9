"""Pages for people, without a server: the catalogue of a store, the documentation, and the report of a build.

`page.py` has the frame that all share; what is shown is given as values, and templates only lay it out.
"""
