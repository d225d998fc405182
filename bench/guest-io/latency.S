# The guest of the latencies of `npm run bench -- guest-io`: a clock in memory, doorbells, and one interrupt handler.
# SDM vol. 3A §6.14 (64-bit gates), §10.5 (local APIC); entered in long mode, with the first 4 GiB mapped to themselves.
#
# It first stores what TABLE says (the driver's set-up of a device, IOAPIC and local APIC). Then it puts its TSC into
# CLOCK for ever, so that whoever reads its memory can tell the time by the guest's own clock. When ASKED moves on it
# goes on for PAUSE cycles, notes the time in RANG, and rings.

        .intel_syntax noprefix
        .globl  start

        .set    CLOCK, 0x200000         # 64 bits each
        .set    RANG, 0x200008
        .set    HANDLED, 0x200010
        .set    ASKED, 0x200018         # 32 bits each
        .set    INTERRUPTS, 0x20001c
        .set    PAUSE, 0x200020         # 64 bits
        .set    TABLE, 0x201000         # address, value; an address of 0 ends it

        .set    NOTIFY, 0xd0000050      # QueueNotify of the first device
        .set    APIC_EOI, 0xfee000b0
        .set    VECTOR, 0x40
        .set    CODE64, 0x10
        .set    STACK, 0x1f0000

        .code64
        .macro  stamp at
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        mov     [\at], rax
        .endm

start:  mov     esp, STACK
        # The PICs would give their own vectors to the same line.
        mov     al, 0xff
        out     0x21, al
        out     0xa1, al
        mov     eax, offset on_interrupt
        mov     word ptr [idt + VECTOR * 16], ax
        mov     word ptr [idt + VECTOR * 16 + 2], CODE64
        mov     word ptr [idt + VECTOR * 16 + 4], 0x8e00
        shr     eax, 16
        mov     word ptr [idt + VECTOR * 16 + 6], ax
        lidt    [idtr]

        mov     esi, TABLE
1:      mov     ebx, [rsi]
        mov     eax, [rsi + 4]
        add     esi, 8
        test    ebx, ebx
        jz      2f
        mov     [rbx], eax
        jmp     1b

2:      mov     ebx, NOTIFY
        mov     ebp, APIC_EOI
        mov     r8d, [ASKED]
        sti
tick:   stamp   CLOCK
        cmp     r8d, [ASKED]
        je      tick
        mov     r8d, [ASKED]
        mov     r9, rax
        add     r9, [PAUSE]
3:      stamp   CLOCK
        cmp     rax, r9
        jb      3b
        stamp   RANG
        mov     dword ptr [rbx], 0
        jmp     tick

on_interrupt:
        push    rax
        push    rdx
        stamp   HANDLED
        inc     dword ptr [INTERRUPTS]
        mov     dword ptr [rbp], 0
        pop     rdx
        pop     rax
        iretq

        .balign 8
idtr:   .word   (VECTOR + 1) * 16 - 1
        .quad   idt
        .balign 16
idt:    .fill   (VECTOR + 1) * 2, 8, 0
