# Exercise 5: make a segment of your own, TREASURE: data, writable, 32 bits, base 0x300000, limit 0x1ff in bytes.
# Load it into GS, and store 0xc0ffee (32 bits) at offset 0x20 of it. Intel SDM vol. 3A §3.4.5.

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
        # Your turn: load GS with the selector TREASURE, and store 0xc0ffee at offset 0x20 of it.
        hlt

        .balign 8
gdt:    .quad   0
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE: 0 to 4 GiB
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # DATA: 0 to 4 GiB
        .quad   0                                               # your turn: TREASURE
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
