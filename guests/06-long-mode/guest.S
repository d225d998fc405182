# Lesson 6: from real mode to long mode, with page tables that the guest builds itself.
# SDM vol. 3A §9.8.5 (initializing IA-32e mode), §4.5 (4-level paging: formats of CR3 and of the entries).

        .intel_syntax noprefix
        .globl  start

        .set    CODE32, 0x08
        .set    DATA, 0x10
        .set    CODE64, 0x18

        .set    CR0_PE, 1 << 0
        .set    CR0_PG, 1 << 31
        .set    CR4_PAE, 1 << 5
        .set    IA32_EFER, 0xc0000080
        .set    EFER_LME, 1 << 8

        .set    PRESENT_WRITABLE, 0x3
        .set    LARGE_PAGE, 0x80        # this entry of a page directory is a page of 2 MiB

        # One page of 512 entries of 8 bytes each. The low tables map the first 2 MiB to themselves, because the
        # instruction after "paging on" is fetched through them; the high ones map 0xffff8000_00000000.
        .set    PML4, 0x10000
        .set    LOW_PDPT, 0x11000
        .set    LOW_PD, 0x12000
        .set    HIGH_PDPT, 0x13000
        .set    HIGH_PD, 0x14000
        .set    TABLES_END, 0x15000
        .set    HIGH_FRAME, 0x400000    # what lies behind the high address: GPA 4 MiB

        .code16
start:
        cli
        xor     ax, ax
        mov     ds, ax
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, CR0_PE
        mov     cr0, eax
        jmp     CODE32:protected

        .code32
protected:
        mov     ax, DATA
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
        mov     dword ptr [LOW_PD], 0 | LARGE_PAGE | PRESENT_WRITABLE
        # Bits 47:39 of 0xffff8000_00000000 are 256, bits 38:30 and 29:21 are 0: the indices into three tables.
        mov     dword ptr [PML4 + 256 * 8], HIGH_PDPT | PRESENT_WRITABLE
        mov     dword ptr [HIGH_PDPT], HIGH_PD | PRESENT_WRITABLE
        mov     dword ptr [HIGH_PD], HIGH_FRAME | LARGE_PAGE | PRESENT_WRITABLE

        # The order is the processor's: PAE, CR3, LME, then paging, which makes LMA of LME.
        mov     eax, cr4
        or      eax, CR4_PAE
        mov     cr4, eax
        mov     eax, PML4
        mov     cr3, eax
        mov     ecx, IA32_EFER
        rdmsr
        or      eax, EFER_LME
        wrmsr
        mov     eax, cr0
        or      eax, CR0_PG
        mov     cr0, eax                # long mode, in its 32-bit "compatibility" form, until CS says 64 bits
        jmp     CODE64:long_mode

        .code64
long_mode:
        mov     rbx, 0xffff800000000000
        mov     rax, 0x1122334455667788
        mov     [rbx + 8], rax          # 64 bits, to an address that only page tables can reach

        mov     esi, offset text
next:   lodsb
        test    al, al
        jz      done
        out     0xe9, al
        jmp     next
done:   hlt

text:   .asciz  "Hello from long mode.\n"

# Bit 53 (flag L) makes a code segment 64 bits; its base and limit no longer count (SDM vol. 3A §3.4.5, §5.2.1).
        .balign 8
gdt:    .quad   0
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE32
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # DATA
        .word   0x0000, 0x0000; .byte 0x00, 0x9b, 0x20, 0x00    # CODE64
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
