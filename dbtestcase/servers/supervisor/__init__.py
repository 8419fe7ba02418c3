"""The program that keeps the servers: it starts them, and ends them when whoever asked for them is gone.

One process for each process of tests, a session of its own, so that no Ctrl-C and no signal to the group reaches it.
It is told what to do over a socket; the socket's end, or the end of its parent, tells it to stop every server
and delete every folder. The servers are its children and die with it.

It is started for every run of tests, so it starts fast: no ``site``, and of the standard library only what Python
has loaded anyway or what is written in C. ``socket``, ``signal``, ``json``, ``typing`` and ``shutil`` are left alone.
"""
