"""One page about how builds have gone, to be looked at in a browser.

figures   what it tells, as dataclasses
problems  error lines, counted by what they have in common
queries   the SQL
gather    the figures, read from the database in one snapshot
wording   numbers, times and durations as a person reads them
markup    HTML and SVG in which a value can't be anything but text
scale     where in a chart a time or a number stands
marks     small drawings: builds, shares, keys
plot      the charts
elements  what the page is made of: tables, names, times
lists     its tables
style     its looks, in light and dark; the script that sorts a table
page      the page, from the figures
"""
