# Lesson 12: a guest with a memory. What it prints next depends on all that it did before.
# Nothing in it knows of snapshots: that is the VMM's side.

        .intel_syntax noprefix
        .code16
        .globl  start

        .set    PORT, 0x80
        .set    ROUNDS, 64

start:  xor     ax, ax
        mov     ds, ax
        mov     cx, ROUNDS
next:   mov     ax, [seed]
        imul    ax, ax, 25173           # a generator of numbers that look random
        add     ax, 13849
        mov     [seed], ax              # the program's own page is written, too
        and     ax, 0x0300              # two bits of it choose one of four pages …
        add     ax, 0x0800
        mov     es, ax                  # … from GPA 0x8000 on
        inc     byte ptr es:[0x10]      # in which we count how often it was chosen
        mov     al, es:[0x10]
        out     PORT, al
        loop    next
        hlt

        .balign 2
seed:   .word   1
