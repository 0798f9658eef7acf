"""Whole files: made complete or not at all, and copied while they are in use.

parts     files that appear whole, as private as their source
copying   copying a database, and checking the copy
"""
