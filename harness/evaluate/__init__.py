"""`mdtbench evaluate`: the official metrics of a protocol, on files that any system generated.

options   what was asked for, checked
pairs     which file belongs to which asset of the reference
looks     pictures and surface points of files, made in worker processes, kept in the cache
features  what the official networks see in them; one network in memory at a time, none if the cache has it all
scores    from features to values
rows      from values to rows
command   the verb
"""
