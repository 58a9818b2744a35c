"""Raises an exception between two bytecodes of the main thread, as a signal's handler can, at every place in turn."""

import sys


class Struck(BaseException):
    """Stands for KeyboardInterrupt, or a task queue's time limit."""


def strike_everywhere(prepare):
    """Call what `prepare` returns again and again, and raise before its first bytecode, its second one, and so on.

    Bytecodes of functions that it calls count too. `prepare` returns a function to strike, and one that checks what is
    left. Returns how many places there were.
    """
    places = 0
    while True:
        call, check = prepare()
        left = places

        def trace(frame, event, arg):
            nonlocal left
            frame.f_trace_opcodes = True
            if event == "opcode":
                if left == 0:
                    raise Struck
                left -= 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        except Struck:
            is_over = False
        else:
            is_over = True
        finally:
            sys.settrace(before)
        check()
        if is_over:
            return places
        places += 1
