"""One module per rule: read what a step needs, call it, write what it made.

A script hands over plain values; the steps themselves open no files.
"""
