"""Named SQL: what is known of a statement before it reaches a connection, and how rows are mapped.

scan      what the text of a statement says about it
values    Python values <-> SQLite values
rows      a row type -> a function from tuples to objects
query     `Query`, named SQL, and `Statement`, a query with its parameters bound
table     statements that every table needs, made from the fields of a dataclass
"""
