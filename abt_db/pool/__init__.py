"""Decides which work runs when: one lane with the writer, one with the readers.

call          a function to be run on a connection, and its caller's time limit
loan          a connection that is lent to one task
queue         waiting work, and which of it is next
perform       the work of one hop: reads that share it, writes that share a commit
deadlock      finds waits that could never end
slot, slots   a connection's place in a lane, with its task; all slots of a lane
lane          a queue, and the connections that serve it
checkpoints   those that are asked for, those of a quiet moment, who is in their way
pool          the two lanes of one database
"""
