# Exercise 1: leave 1 + 2 + … + N in AX, and halt. The VMM has put N into CX; it is not 0.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        xor     ax, ax          # AX = 0
        # Your turn: add CX to AX, count CX down, and do so again until CX is 0 (Intel SDM vol. 2: ADD, LOOP).
        hlt
