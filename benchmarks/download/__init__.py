"""`make bench-download`: the download engine beside the programs and libraries that people use instead.

profile, pacing, answer, run    how the server serves: in the URL, at what speed, honestly, to whom
misbehaviour, server            … and dishonestly; the process that does it
link                            a long, lossy line between client and server, as a TUN device
sandbox                         namespaces and folders of our own, gone afterwards
clients, fetchers               who is measured, by which command
measure                         one process: time, CPU, memory, how it ended
rows, faults                    the two tables: how fast, and how right
report                          Markdown
"""
