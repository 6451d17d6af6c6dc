"""`mdtbench evaluate`: the official metrics of a protocol, on files that any system generated.

options     what was asked for, checked
pairs       which file belongs to which asset of the reference
conditions  the pictures that assets were made from
looks       pictures and surface points of files, made in worker processes, kept in the cache
reference   what assets are compared with: a folder of meshes,
toys4k      or Toys4k, which Blender draws and converts
features    what the official networks see in them; one network in memory at a time, none if the cache has it all
spool       features on disk while they are scored
columns     what networks see of both sides, column by column
scores      from features to values
measure     all of it: pictures and points, what failed, the columns
rows        from values to rows
command     the verb
"""
