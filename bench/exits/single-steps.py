# Single steps of one thread from a return of ioctl(KVM_RUN) on, as JSON lines; run by gdb, for bench/exits/account.ts.
# GDB manual, "Python API". Environment: THREAD (its id), OUT (a file), EXITS (how many are wanted, each up to the next entry).
import json
import os

import gdb

REGISTERS = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"] + [f"r{n}" for n in range(8, 16)] + ["fs_base"]
SYSCALL = b"\x0f\x05"
# An exit that takes more is none of the run loop's.
MOST_STEPS = 100_000


def quietly(command):
    return gdb.execute(command, to_string=True)


for signal in ("SIG34", "SIGUSR1", "SIGSEGV"):
    quietly(f"handle {signal} nostop noprint pass")
process = gdb.selected_inferior()
[thread] = [each for each in process.threads() if each.ptid[1] == int(os.environ["THREAD"])]
thread.switch()
# Unwinding compiled JavaScript at each step would take minutes.
quietly("set backtrace limit 1")
quietly("set scheduler-locking on")
# The entry or the return that the attachment found is not a whole one.
quietly("catch syscall ioctl")
for _ in range(3):
    quietly("continue")
quietly("delete")
# Behind the next SYSCALL an exit begins.
exits = -1
with open(os.environ["OUT"], "w") as out:
    for _ in range(MOST_STEPS):
        frame = gdb.newest_frame()
        code = bytes(process.read_memory(frame.pc(), 15))
        if exits >= 0:
            values = [str(int(frame.read_register(name)) & (2**64 - 1)) for name in REGISTERS]
            out.write(json.dumps({"exit": exits, "pc": str(frame.pc()), "code": code.hex(), "registers": values}) + "\n")
        if code.startswith(SYSCALL):
            exits += 1
        if exits == int(os.environ["EXITS"]):
            break
        quietly("stepi")
    with open(f"/proc/{process.pid}/maps") as maps:
        out.write(json.dumps({"maps": maps.read()}) + "\n")
quietly("detach")
