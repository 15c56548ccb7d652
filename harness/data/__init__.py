"""Where the benchmarks' data comes from, what of it is on disk, and how the rest gets there: `retain data`.

sources.py     each benchmark of the paper: address, size, checksum, what must be placed by hand
state.py       present, partial or missing, and what to do, from the files alone
manifest.py    what a finished download left, written last
download.py    one file over HTTP, resumed and verified; hub.py: a data set of the hub
unpack.py      zip, tar and pickle archives, without leaving their folder, whole or not at all
fetch.py       one benchmark, with these; command.py: the command
"""
