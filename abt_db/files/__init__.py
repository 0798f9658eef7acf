"""Writes files completely or not at all, and copies databases while they are in use.

parts     writes a file that appears complete, and as private as its source
copying   copies a database, and checks the copy
"""
