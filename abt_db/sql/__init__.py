"""Named SQL: what is known of a statement before a connection sees it, and what its rows become.

scan      what a statement's text tells
values    Python values <-> SQLite values
rows      a row type -> a function from tuples to objects
query     `Query`, named SQL, and `Statement`, a query with its parameters
table     the statements that every table has, made from the fields of a dataclass
"""
