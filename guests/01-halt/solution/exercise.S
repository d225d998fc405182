# Exercise 1, solved: AX = 1 + 2 + … + N, for N in CX.

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        xor     ax, ax
next:   add     ax, cx          # N + (N - 1) + … + 1
        loop    next            # CX = CX - 1; on to the next as long as it is not 0
        hlt
