# The guest of `npm run bench -- exits`: one instruction in a loop, in the mode that the mailbox names.
# SDM vol. 3A §9.8 (initializing modes), §4.5 (4-level paging), §6.14 (64-bit gates), §10.5.4 (APIC timer), §5.8.5 (IOPL).
#
# The same bytes run in every VMM of the benchmark. They start in real mode at 0:ENTRY, go to the mode, run the loop as
# often as COUNT says, write to END_PORT, and read the mailbox again. With STAMPED, each pass leaves the TSC cycles
# around the instruction, which tell the same story whoever serves the exit.

        .intel_syntax noprefix
        .globl  start

        .set    COUNT, 0x500            # the mailbox: passes,
        .set    OP, 0x504               # number of the loop,
        .set    MODE, 0x508             # 0 real, 1 protected, 2 long, 3 long at CPL 3,
        .set    STAMPED, 0x50c          # 1 to leave stamps
        .set    TICKS, 0x510            # interrupts so far
        .set    TEMPORARY, 0x514
        .set    STRING, 0x600
        .set    STRING_BYTES, 64
        .set    STACK, 0x8000
        .set    STAMPS, 0x20000         # 16384 of 32 bits
        .set    PORT, 0xe9
        .set    END_PORT, 0xf4
        .set    MMIO, 0xfeb00000        # where QEMU's microvm has its first virtio-mmio transport
        .set    REAL_MMIO, 0xd0000      # real mode does not reach that far
        .set    WRITTEN, 0x14           # DeviceFeaturesSel; offset 0 is MagicValue
        .set    FILTERED_MSR, 0x1b0
        .set    IN_A_ROW, 16

        .set    APIC, 0xfee00000
        .set    EOI, 0xb0
        .set    SPURIOUS, 0xf0
        .set    LVT_TIMER, 0x320
        .set    INITIAL_COUNT, 0x380
        .set    DIVIDE, 0x3e0
        .set    IRQ_VECTOR, 0x30
        .set    TIMER_VECTOR, 0x31
        .set    TIMER_COUNT, 20000      # KVM's APIC counts nanoseconds

        .set    CODE32, 0x08
        .set    DATA, 0x10
        .set    CODE64, 0x18
        .set    USER_DATA, 0x20 | 3
        .set    USER_CODE64, 0x28 | 3
        .set    PML4, 0x10000
        .set    PDPT, 0x11000
        .set    LOW_PD, 0x12000
        .set    HIGH_PD, 0x13000        # 3 to 4 GiB
        .set    TABLES_END, 0x14000
        .set    MAP, 0x7                # present, writable, user
        .set    MAP_LARGE, 0x87
        .set    MAP_DEVICE, 0x97        # … not cached

# --- The instructions ------------------------------------------------------------------------------------------------

        .macro  op_0
        out     PORT, al
        .endm
        .macro  op_1
        in      al, PORT
        .endm
        .macro  op_2
        mov     esi, STRING
        mov     ecx, STRING_BYTES
        mov     edx, PORT
        rep outsb
        .endm
        .macro  op_3
        mov     gs:[ebx + WRITTEN], eax
        .endm
        .macro  op_4
        mov     eax, gs:[ebx]
        .endm
        .macro  op_5
        xor     eax, eax
        cpuid
        .endm
        .macro  op_6
        mov     ecx, FILTERED_MSR
        rdmsr
        .endm

# In a row, where what the loop itself costs would be most of it.
        .macro  op_11
        .rept   IN_A_ROW
        out     PORT, al
        .endr
        .endm
        .macro  op_12
        .rept   IN_A_ROW
        mov     gs:[ebx + WRITTEN], eax
        .endr
        .endm

        .macro  loop_of op
        cmp     eax, \op
        jne     7f
        test    ecx, ecx
        jnz     5f
4:      op_\op
        dec     ebp
        jnz     4b
        jmp     8f
5:      rdtsc
        mov     [TEMPORARY], eax
        op_\op
        rdtsc
        sub     eax, [TEMPORARY]
        mov     fs:[edi], eax
        add     edi, 4
        dec     ebp
        jnz     5b
        jmp     8f
7:
        .endm

# Reads the mailbox, runs, says that it is done, and begins again.
        .macro  mailbox stamps, mmio
3:      mov     edi, \stamps
        mov     ebx, \mmio
        mov     eax, [OP]
        mov     ecx, [STAMPED]
        mov     ebp, [COUNT]
        test    ebp, ebp
        jz      8f
        loop_of 0
        loop_of 1
        loop_of 2
        loop_of 3
        loop_of 4
        .endm
        .macro  end_of_mailbox
8:      xor     eax, eax
        out     END_PORT, al
        jmp     3b
        .endm

# --- Real mode -------------------------------------------------------------------------------------------------------

        .code16
start:
        cli
        cld
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, STACK
        cmp     dword ptr [MODE], 0
        jne     leave_real
        mov     ax, STAMPS >> 4
        mov     fs, ax
        mov     ax, REAL_MMIO >> 4
        mov     gs, ax
        mailbox 0, 0
        end_of_mailbox

leave_real:
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     CODE32:protected

# --- Protected mode --------------------------------------------------------------------------------------------------

        .code32
protected:
        mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     ss, ax
        mov     esp, STACK
        cmp     dword ptr [MODE], 1
        jne     leave_protected
        mailbox STAMPS, MMIO
        end_of_mailbox

leave_protected:
        mov     edi, PML4
        mov     ecx, (TABLES_END - PML4) / 4
        xor     eax, eax
        rep stosd
        mov     dword ptr [PML4], PDPT | MAP
        mov     dword ptr [PDPT], LOW_PD | MAP
        mov     dword ptr [PDPT + 3 * 8], HIGH_PD | MAP
        mov     dword ptr [LOW_PD], 0 | MAP_LARGE
        mov     dword ptr [HIGH_PD + ((APIC >> 21) & 511) * 8], APIC & ~0x1fffff | MAP_DEVICE
        mov     dword ptr [HIGH_PD + ((MMIO >> 21) & 511) * 8], MMIO & ~0x1fffff | MAP_DEVICE
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

# --- Long mode -------------------------------------------------------------------------------------------------------

        .code64
long_mode:
        mov     esp, STACK
        cmp     dword ptr [MODE], 3
        je      to_user
        mov     edi, offset on_irq
        mov     ebx, offset idt + IRQ_VECTOR * 16
        call    gate
        mov     edi, offset on_timer
        mov     ebx, offset idt + TIMER_VECTOR * 16
        call    gate
        lidt    [idtr]
        mov     ebx, APIC
        mov     dword ptr [rbx + SPURIOUS], 1 << 8 | 0xff
        mov     dword ptr [rbx + DIVIDE], 0b1011
        mov     dword ptr [rbx + LVT_TIMER], TIMER_VECTOR

        mailbox STAMPS, MMIO
        loop_of 5
        loop_of 6
        loop_of 11
        loop_of 12
        mov     dword ptr [TICKS], 0
        cmp     eax, 7
        je      wait_halted
        cmp     eax, 8
        je      wait_spinning
        cmp     eax, 9
        je      wait_timer
        cmp     eax, 10
        je      spin
        end_of_mailbox

# STI takes effect after the next instruction: no interrupt comes between it and HLT, so none is slept over. Where an
# emulated processor forgets that, the handler steps over the HLT.
        .macro  return_from hlt
        cmp     qword ptr [rsp + 8], offset \hlt
        jne     1f
        inc     qword ptr [rsp + 8]
1:      pop     rax
        iretq
        .endm

wait_halted:
        cmp     [TICKS], ebp
        jae     8b
        sti
irq_hlt:
        hlt
        cli
        jmp     wait_halted

wait_spinning:
        sti
1:      pause
        cmp     [TICKS], ebp
        jb      1b
        cli
        jmp     8b

wait_timer:
        mov     ebx, APIC
1:      mov     dword ptr [rbx + INITIAL_COUNT], TIMER_COUNT
        sti
timer_hlt:
        hlt
        cli
        cmp     [TICKS], ebp
        jb      1b
        jmp     8b

spin:   jmp     spin

on_irq: push    rax
        out     PORT, al
        mov     eax, APIC
        mov     dword ptr [rax + EOI], 0
        inc     dword ptr [TICKS]
        return_from irq_hlt

on_timer:
        push    rax
        mov     eax, APIC
        mov     dword ptr [rax + EOI], 0
        inc     dword ptr [TICKS]
        return_from timer_hlt

# The gate at RBX leads to RDI.
gate:   mov     [rbx], di
        mov     word ptr [rbx + 2], CODE64
        mov     word ptr [rbx + 4], 0x8e00
        shr     edi, 16
        mov     [rbx + 6], di
        ret

# IOPL 3: IN and OUT at CPL 3 ask nobody.
to_user:
        push    USER_DATA
        push    STACK
        push    0x3002
        push    USER_CODE64
        mov     eax, offset user
        push    rax
        iretq
user:
        mov     ax, USER_DATA
        mov     ds, ax
        mov     fs, ax
        mov     gs, ax
        mailbox STAMPS, MMIO
        end_of_mailbox

        .balign 8
gdt:    .quad   0
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE32
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # DATA
        .word   0x0000, 0x0000; .byte 0x00, 0x9b, 0x20, 0x00    # CODE64
        .word   0xffff, 0x0000; .byte 0x00, 0xf3, 0xcf, 0x00    # USER_DATA
        .word   0x0000, 0x0000; .byte 0x00, 0xfb, 0x20, 0x00    # USER_CODE64
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
idtr:   .word   (TIMER_VECTOR + 1) * 16 - 1
        .quad   idt
        .balign 16
idt:    .fill   (TIMER_VECTOR + 1) * 2, 8, 0
