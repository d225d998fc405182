# The way of lesson 6 from real mode to long mode, as macros for the guests that come after it.
# The first 2 MiB, and the 2 MiB around the local APIC, map to themselves. Intel SDM vol. 3A §9.8.5, §4.5.

        .set    CODE32, 0x08
        .set    DATA, 0x10
        .set    CODE64, 0x18

        .set    PML4, 0x10000
        .set    LOW_PDPT, 0x11000       # of the PML4's entry 0
        .set    LOW_PD, 0x12000         # of its entry 0: the first GiB
        .set    APIC_PD, 0x13000        # of its entry 3
        .set    FREE_TABLES, 0x14000    # zeroed up to TABLES_END: for tables of your own
        .set    TABLES_END, 0x18000
        .set    APIC, 0xfee00000

        .set    PRESENT_WRITABLE, 0x3
        .set    LARGE_PAGE, 0x80        # in a page directory: a page of 2 MiB
        .set    NOT_CACHED, 0x10        # reads of a device must reach it

        # Comes in real mode with CS = 0, goes on in 64-bit mode behind it. `gdtr` is made by the other macro.
        .macro  enter_long_mode
        .code16
        cli
        xor     ax, ax
        mov     ds, ax
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, 1                   # PE
        mov     cr0, eax
        jmp     CODE32:9f
        .code32
9:      mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     edi, PML4               # memory may hold anything: an entry that is not 0 could be "present"
        mov     ecx, (TABLES_END - PML4) / 4
        xor     eax, eax
        cld
        rep stosd
        mov     dword ptr [PML4], LOW_PDPT | PRESENT_WRITABLE
        mov     dword ptr [LOW_PDPT], LOW_PD | PRESENT_WRITABLE
        mov     dword ptr [LOW_PDPT + (APIC >> 30) * 8], APIC_PD | PRESENT_WRITABLE
        mov     dword ptr [LOW_PD], 0 | LARGE_PAGE | PRESENT_WRITABLE
        mov     dword ptr [APIC_PD + ((APIC >> 21) & 511) * 8], (APIC & ~0x1fffff) | LARGE_PAGE | NOT_CACHED | PRESENT_WRITABLE
        mov     eax, cr4
        or      eax, 1 << 5             # PAE
        mov     cr4, eax
        mov     eax, PML4
        mov     cr3, eax
        mov     ecx, 0xc0000080         # IA32_EFER
        rdmsr
        or      eax, 1 << 8             # LME
        wrmsr
        mov     eax, cr0
        or      eax, 1 << 31            # PG
        mov     cr0, eax
        jmp     CODE64:9f
        .code64
9:      mov     esp, 0x8000
        .endm

        .macro  long_mode_gdt
        .balign 8
gdt:    .quad   0
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE32
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # DATA
        .word   0x0000, 0x0000; .byte 0x00, 0x9b, 0x20, 0x00    # CODE64
gdtr:   .word   4 * 8 - 1
        .long   gdt
        .endm

        # An interrupt gate of the table `idt`: offset 15:0, selector, 0x8e00 (present, DPL 0, no IST), offset 31:16, 63:32.
        .macro  set_gate vector, handler
        mov     eax, offset \handler
        mov     word ptr [idt + (\vector) * 16], ax
        mov     word ptr [idt + (\vector) * 16 + 2], CODE64
        mov     word ptr [idt + (\vector) * 16 + 4], 0x8e00
        shr     eax, 16
        mov     word ptr [idt + (\vector) * 16 + 6], ax
        .endm

        # Room for the gates of the first `gates` vectors, all of them not present; `idtr` is for LIDT.
        .macro  empty_idt gates
        .balign 16
idt:    .fill   (\gates) * 2, 8, 0
idtr:   .word   (\gates) * 16 - 1
        .quad   idt
        .endm
