# Lesson 6: a timer interrupt. The local APIC counts, the IDT says who is called, HLT waits.
# SDM vol. 3A §10.5.4 (APIC timer), §10.8.5 (end of interrupt), §6.10, §6.14 (IDT, 64-bit gates and frames).

        .intel_syntax noprefix
        .globl  start

        .set    TICKS, 10
        .set    TICK_PORT, 0x80         # written at each tick
        .set    EXIT_PORT, 0xf4         # written at the end

        .set    VECTOR, 0x20            # 0 to 31 are the processor's own (SDM vol. 3A §6.3.1)
        .set    APIC, 0xfee00000        # its registers, 32 bits each, 16 bytes apart (SDM vol. 3A §10.4.1)
        .set    EOI, 0xb0
        .set    SPURIOUS, 0xf0
        .set    LVT_TIMER, 0x320
        .set    INITIAL_COUNT, 0x380
        .set    DIVIDE, 0x3e0
        .set    APIC_ENABLE, 1 << 8
        .set    PERIODIC, 1 << 17
        .set    DIVIDE_BY_1, 0b1011
        .set    COUNT, 5000000          # KVM's APIC counts nanoseconds: a tick each 5 ms

        .set    CODE32, 0x08
        .set    DATA, 0x10
        .set    CODE64, 0x18
        .set    PML4, 0x10000
        .set    PDPT, 0x11000
        .set    LOW_PD, 0x12000         # the first 2 MiB
        .set    APIC_PD, 0x13000        # the 2 MiB around the APIC
        .set    TABLES_END, 0x14000
        .set    MAP, 0x3                # present, writable
        .set    MAP_LARGE, 0x83         # … a page of 2 MiB
        .set    MAP_DEVICE, 0x93        # … not cached (PCD): reads of a device must reach it

# As in lesson 5: real mode, protected mode, paging, long mode.
        .code16
start:
        cli
        xor     ax, ax
        mov     ds, ax
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     CODE32:protected

        .code32
protected:
        mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     edi, PML4
        mov     ecx, (TABLES_END - PML4) / 4
        xor     eax, eax
        cld
        rep stosd
        mov     dword ptr [PML4], PDPT | MAP
        mov     dword ptr [PDPT], LOW_PD | MAP
        mov     dword ptr [PDPT + (APIC >> 30) * 8], APIC_PD | MAP
        mov     dword ptr [LOW_PD], 0 | MAP_LARGE
        mov     dword ptr [APIC_PD + ((APIC >> 21) & 511) * 8], APIC & ~0x1fffff | MAP_DEVICE
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
        jmp     CODE64:long_mode

        .code64
long_mode:
        mov     esp, 0x8000             # an interrupt pushes SS, RSP, RFLAGS, CS and RIP here

        # An interrupt gate has 16 bytes: offset 15:0, selector, 0x8e00 (present, DPL 0, no IST), offset 31:16, 63:32.
        mov     eax, offset on_timer
        mov     word ptr [idt + VECTOR * 16], ax
        mov     word ptr [idt + VECTOR * 16 + 2], CODE64
        mov     word ptr [idt + VECTOR * 16 + 4], 0x8e00
        shr     eax, 16
        mov     word ptr [idt + VECTOR * 16 + 6], ax
        lidt    [idtr]

        mov     ebx, APIC
        mov     dword ptr [rbx + SPURIOUS], APIC_ENABLE | 0xff
        mov     dword ptr [rbx + DIVIDE], DIVIDE_BY_1
        mov     dword ptr [rbx + LVT_TIMER], PERIODIC | VECTOR
        mov     dword ptr [rbx + INITIAL_COUNT], COUNT          # it counts from here on

        # STI takes effect after the next instruction: no interrupt comes between it and HLT, so none is slept over.
wait:   sti
        hlt
        cli
        cmp     dword ptr [ticks], TICKS
        jb      wait
        out     EXIT_PORT, al
        hlt

on_timer:
        push    rax
        mov     eax, [ticks]
        inc     eax
        mov     [ticks], eax
        out     TICK_PORT, al
        mov     dword ptr [rbx + EOI], 0        # or the APIC holds back the next one (RBX is ours everywhere here)
        pop     rax
        iretq

        .balign 8
gdt:    .quad   0
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE32
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # DATA
        .word   0x0000, 0x0000; .byte 0x00, 0x9b, 0x20, 0x00    # CODE64
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
idtr:   .word   (VECTOR + 1) * 16 - 1
        .quad   idt
ticks:  .long   0
        .balign 16
idt:    .fill   (VECTOR + 1) * 2, 8, 0
