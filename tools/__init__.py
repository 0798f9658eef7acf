"""The command line: `abt-db COMMAND …`, one module a command."""
