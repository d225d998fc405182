# Exercise 8: bring up the PIC, so that the PIT's IRQ 0 arrives as vector 0x20, and finish each interrupt.
# The program counts three ticks and ends. The PIT is set up already. 8259A data sheet: ICW1 to ICW4, OCW1, OCW2.

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

        # Your turn: ICW1 (0x11) to both command ports, then to the data ports ICW2 (the vector of the PIC's first IRQ:
        # 0x20 and 0x28), ICW3 (4 and 2: where they hang together) and ICW4 (1). At last the masks: a 0 lets an IRQ
        # through, so 0xfe for PIC1 and 0xff for PIC2.

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
        # Your turn: OCW2, 0x20 to the command port of PIC1, tells it that this interrupt is done.
        pop     rax
        iretq

        .balign 4
ticks:  .long   0
        long_mode_gdt
        empty_idt PIT_VECTOR + 1
