"""One page about how builds have gone, to be looked at in a browser.

figures   what it tells, as dataclasses
problems  error lines, counted by what they have in common
gather    the figures, read from the database in one snapshot
markup    HTML and SVG in which a value can't be anything but text
plot      its charts, as SVG
style     its looks: colours, rules, and the script that sorts a table
page      the page, from the figures
"""
