"""`make bench-download`: the download engine beside the programs and libraries that people use instead.

profile, pacing, answer, run    settings of a served file, rate limits, correct responses, counters of one run
misbehaviour, server            faulty responses, and the server process
link                            a long and lossy line between client and server, as a TUN device
sandbox                         private namespaces and temporary folders
clients, fetchers               the measured programs and their commands
measure                         one process: time, CPU, memory, exit status
rows, faults                    the two tables: speed and correctness
report                          the Markdown page
"""
