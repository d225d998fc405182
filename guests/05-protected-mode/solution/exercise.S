# Exercise 5, solved: a segment with a base and a limit of its own.

        .intel_syntax noprefix
        .globl  start

        .set    CODE, 0x08
        .set    DATA, 0x10
        .set    TREASURE, 0x18

        .code16
start:
        cli
        xor     ax, ax
        mov     ds, ax
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     CODE:protected

        .code32
protected:
        mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     ax, TREASURE
        mov     gs, ax
        mov     dword ptr gs:[0x20], 0xc0ffee
        hlt

        .balign 8
gdt:    .quad   0
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE: 0 to 4 GiB
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # DATA: 0 to 4 GiB
        .word   0x01ff, 0x0000; .byte 0x30, 0x93, 0x40, 0x00    # TREASURE: flags 4, so the limit counts bytes
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
