# Exercise 7, solved: memory on demand.

        .intel_syntax noprefix
        .include "long-mode.S"
        .globl  start

        .set    PF, 14
        .set    DEMAND, 0x40000000      # 1 GiB
        .set    DEMAND_PD, FREE_TABLES
        .set    DEMAND_PT, FREE_TABLES + 0x1000

        .code16
start:  enter_long_mode
        mov     qword ptr [LOW_PDPT + (DEMAND >> 30) * 8], DEMAND_PD | PRESENT_WRITABLE
        mov     qword ptr [DEMAND_PD], DEMAND_PT | PRESENT_WRITABLE
        set_gate PF, on_page_fault
        lidt    [idtr]

        mov     ebx, DEMAND
        mov     dword ptr [rbx], 0x11111111
        mov     dword ptr [rbx + 0x3008], 0x22222222
        mov     dword ptr [rbx + 0x10], 0x33333333      # in the first page again: no fault
        mov     dword ptr [rbx + 0x5ffc], 0x44444444
        out     0xf4, al                # done

on_page_fault:
        push    rax
        push    rcx
        mov     rcx, cr2
        shr     rcx, 12
        and     ecx, 0x1ff              # bits 20:12
        mov     rax, [next_frame]
        add     qword ptr [next_frame], 0x1000
        or      rax, PRESENT_WRITABLE
        mov     [DEMAND_PT + rcx * 8], rax
        pop     rcx
        pop     rax
        add     rsp, 8                  # the error code
        iretq

        .balign 8
next_frame:
        .quad   0x100000

        long_mode_gdt
        empty_idt 32
