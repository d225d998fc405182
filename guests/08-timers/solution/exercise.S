# Exercise 8, solved: the PIC gets its four words, and each interrupt its end.

        .intel_syntax noprefix
        .include "long-mode.S"
        .globl  start

        .set    PIC1, 0x20              # command port; the data port is one more
        .set    PIC2, 0xa0
        .set    PIT_VECTOR, 0x20

        .macro  outb port, value
        mov     al, \value
        out     \port, al
        .endm

        .code16
start:  enter_long_mode
        set_gate PIT_VECTOR, on_pit
        lidt    [idtr]

        outb    PIC1, 0x11
        outb    PIC2, 0x11
        outb    PIC1 + 1, PIT_VECTOR
        outb    PIC2 + 1, PIT_VECTOR + 8
        outb    PIC1 + 1, 0x04
        outb    PIC2 + 1, 0x02
        outb    PIC1 + 1, 0x01
        outb    PIC2 + 1, 0x01
        outb    PIC1 + 1, 0xfe
        outb    PIC2 + 1, 0xff

        outb    0x43, 0x34              # the PIT: channel 0, periodic
        outb    0x40, 0x00
        outb    0x40, 0x10              # each 0x1000 / 1193182 s, 3.4 ms

1:      sti
        hlt
        cli
        cmp     dword ptr [ticks], 3
        jb      1b
        out     0xf4, al                # done
        hlt

on_pit: push    rax
        inc     dword ptr [ticks]
        outb    PIC1, 0x20
        pop     rax
        iretq

        .balign 4
ticks:  .long   0
        long_mode_gdt
        empty_idt PIT_VECTOR + 1
