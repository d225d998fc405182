# Exercise 6: map the 4 KiB page at the linear address 0xffffc00000201000 to GPA 0x500000, writable, and store
# 0x0123456789abcdef (64 bits) there. Four tables this time. Intel SDM vol. 3A §4.5.

        .intel_syntax noprefix
        .include "long-mode.S"        # in guests/ladder/: this lesson's way to long mode, and the names below
        .globl  start

        .set    FRAME, 0x500000

        .code16
start:  enter_long_mode

        # Here is 64-bit mode. The PML4 lies at PML4; the pages from FREE_TABLES to TABLES_END (four) are zero and yours.
        # Bits 47:39 of the address index the PML4, bits 38:30 the PDPT, bits 29:21 the PD, bits 20:12 the PT.
        # Your turn: four stores, each `mov qword ptr [TABLE + INDEX * 8], NEXT_TABLE | PRESENT_WRITABLE`.

        mov     rbx, 0xffffc00000201000
        mov     rax, 0x0123456789abcdef
        mov     [rbx], rax
        hlt

        long_mode_gdt
