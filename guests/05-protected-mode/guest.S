# Lesson 5: from real mode to protected mode.
# SDM vol. 3A §3.4 (segments and descriptors), §9.9.1 (switching to protected mode).

        .intel_syntax noprefix
        .globl  start

        .set    CODE, 0x08      # selectors: index in the GDT * 8 (SDM vol. 3A §3.4.2)
        .set    DATA, 0x10
        .set    WINDOW, 0x18
        .set    CR0_PE, 1 << 0
        .set    FAR_AWAY, 0x200000      # 2 MiB: out of real mode's reach

        .code16
start:
        cli                     # an interrupt in between would find neither IVT nor IDT
        xor     ax, ax
        mov     ds, ax
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, CR0_PE
        mov     cr0, eax        # protected mode begins here; CS is still the 16-bit segment
        jmp     CODE:protected  # the far jump loads CS from the GDT: 32-bit code from here on

        .code32
protected:
        mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, 0x8000
        mov     ax, WINDOW
        mov     fs, ax

        mov     dword ptr [FAR_AWAY], 0x12345678        # a 32-bit address, flat segment: base 0
        mov     dword ptr fs:[0x10], 0xcafe             # base 2 MiB + 0x10

        mov     esi, offset text
        call    print
        hlt

print:  lodsb
        test    al, al
        jz      1f
        out     0xe9, al
        jmp     print
1:      ret

text:   .asciz  "Hello from protected mode.\n"

# Descriptors: limit 15:0, base 15:0, base 23:16, access, flags and limit 19:16, base 31:24 (SDM vol. 3A §3.4.5).
# Access 0x9b: present, code, readable, accessed. 0x93: present, data, writable, accessed.
# Flags 0xc: limit in pages, 32 bits. 0x4: limit in bytes, 32 bits.
        .balign 8
gdt:    .quad   0                                       # the null descriptor
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE: 0 to 4 GiB
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # DATA: 0 to 4 GiB
        .word   0x0fff, 0x0000; .byte 0x20, 0x93, 0x40, 0x00    # WINDOW: 4 KiB from 2 MiB
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
