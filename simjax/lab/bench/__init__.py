"""Speed and memory beside other libraries, by hand: the figures depend on the machine.

Contenders take turns in one process, so that whatever else the machine does falls on all of them,
and ratios are taken within a turn. What a contender is asked to do is written in its module.
"""
