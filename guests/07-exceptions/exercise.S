# Exercise 7: memory on demand. The program writes to three pages (of 4 KiB) from 1 GiB on, of which only the page table
# is there, all zero. Write the page-fault handler that gives each page a frame when it is touched.
# Intel SDM vol. 3A §6.14 (frames in 64-bit mode), §4.5 (entries), §4.7 (CR2).

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
        # On the stack, from the top: error code, RIP, CS, RFLAGS, RSP, SS. The interrupted program's registers must be
        # the same afterwards: push what you use. `next_frame` is the GPA of the next free frame.
        # Your turn:
        #   bits 20:12 of CR2 are the index into DEMAND_PT (mov rax, cr2; shr; and);
        #   store next_frame | PRESENT_WRITABLE (8 bytes) there, and add 0x1000 to next_frame;
        #   take the error code off the stack; IRETQ.
        hlt

        .balign 8
next_frame:
        .quad   0x100000

        long_mode_gdt
        empty_idt 32
