"""What a stopped process stores after another one took its thread over: with leases, without, and with other savers.

`workers` has the processes, `schedules` stops and wakes them, `judge` finds what is stale. See `__main__`.
"""
