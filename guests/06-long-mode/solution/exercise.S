# Exercise 6, solved: a page of 4 KiB through four tables.

        .intel_syntax noprefix
        .include "long-mode.S"
        .globl  start

        .set    FRAME, 0x500000
        .set    MY_PDPT, FREE_TABLES
        .set    MY_PD, FREE_TABLES + 0x1000
        .set    MY_PT, FREE_TABLES + 0x2000

        .code16
start:  enter_long_mode

        # 0xffffc00000201000: bits 47:39 are 384, bits 38:30 are 0, bits 29:21 are 1, bits 20:12 are 1.
        mov     qword ptr [PML4 + 384 * 8], MY_PDPT | PRESENT_WRITABLE
        mov     qword ptr [MY_PDPT + 0 * 8], MY_PD | PRESENT_WRITABLE
        mov     qword ptr [MY_PD + 1 * 8], MY_PT | PRESENT_WRITABLE
        mov     qword ptr [MY_PT + 1 * 8], FRAME | PRESENT_WRITABLE

        mov     rbx, 0xffffc00000201000
        mov     rax, 0x0123456789abcdef
        mov     [rbx], rax
        hlt

        long_mode_gdt
