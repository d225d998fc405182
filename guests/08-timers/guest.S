# Lesson 8: two timers. The PIT ticks through the PIC, as on the first PC; then the local APIC's own timer ticks.
# 8259A and 8254 data sheets; SDM vol. 3A §10.5.4 (APIC timer), §10.8.5 (end of interrupt), §6.8.1 (STI).

        .intel_syntax noprefix
        .include "long-mode.S"        # in guests/ladder/
        .globl  start

        .set    TICKS, 5                # of each
        .set    PIT_TICK, 0x80          # ports, written at each tick and at the end
        .set    APIC_TICK, 0x81
        .set    EXIT, 0xf4

        .set    PIC1, 0x20              # the PICs: command and data port each
        .set    PIC2, 0xa0
        .set    PIT_CHANNEL0, 0x40
        .set    PIT_COMMAND, 0x43
        .set    PIT_DIVISOR, 1193182 / 200      # the PIT counts at 1193182 Hz: 200 interrupts a second

        .set    PIT_VECTOR, 0x20        # 0 to 31 are the processor's own (SDM vol. 3A §6.3.1)
        .set    APIC_VECTOR, 0x30
        .set    EOI, 0xb0               # registers of the APIC: 32 bits each, 16 bytes apart (SDM vol. 3A §10.4.1)
        .set    SPURIOUS, 0xf0
        .set    LVT_TIMER, 0x320
        .set    INITIAL_COUNT, 0x380
        .set    DIVIDE, 0x3e0
        .set    APIC_ENABLE, 1 << 8
        .set    PERIODIC, 1 << 17
        .set    DIVIDE_BY_1, 0b1011
        .set    COUNT, 5000000          # KVM's APIC counts nanoseconds: a tick each 5 ms

        .macro  outb port, value
        mov     al, \value
        out     \port, al
        .endm

        .code16
start:  enter_long_mode
        set_gate PIT_VECTOR, on_pit
        set_gate APIC_VECTOR, on_apic
        lidt    [idtr]
        mov     ebx, APIC

        # After a PC's start the PIC gives IRQ 0 as vector 8, which is #DF's. Four initialization command words move it.
        outb    PIC1, 0x11              # ICW1: four words follow
        outb    PIC2, 0x11
        outb    PIC1 + 1, PIT_VECTOR    # ICW2: IRQ 0 is this vector, IRQ 7 seven more
        outb    PIC2 + 1, PIT_VECTOR + 8
        outb    PIC1 + 1, 0x04          # ICW3: the other PIC hangs on IRQ 2
        outb    PIC2 + 1, 0x02
        outb    PIC1 + 1, 0x01          # ICW4: 8086 mode, EOI by hand
        outb    PIC2 + 1, 0x01
        outb    PIC1 + 1, 0xfe          # the mask: IRQ 0 only
        outb    PIC2 + 1, 0xff

        outb    PIT_COMMAND, 0x34       # channel 0, low byte then high byte, mode 2 (periodic), binary
        outb    PIT_CHANNEL0, PIT_DIVISOR & 0xff
        outb    PIT_CHANNEL0, PIT_DIVISOR >> 8

        # STI takes effect after the next instruction: no interrupt comes between it and HLT, so none is slept over.
1:      sti
        hlt
        cli
        cmp     dword ptr [pit_ticks], TICKS
        jb      1b
        outb    PIC1 + 1, 0xff          # no more of these

        mov     dword ptr [rbx + SPURIOUS], APIC_ENABLE | 0xff
        mov     dword ptr [rbx + DIVIDE], DIVIDE_BY_1
        mov     dword ptr [rbx + LVT_TIMER], PERIODIC | APIC_VECTOR
        mov     dword ptr [rbx + INITIAL_COUNT], COUNT          # it counts from here on
2:      sti
        hlt
        cli
        cmp     dword ptr [apic_ticks], TICKS
        jb      2b
        out     EXIT, al
        hlt

on_pit: push    rax
        inc     dword ptr [pit_ticks]
        mov     eax, [pit_ticks]
        out     PIT_TICK, al
        outb    PIC1, 0x20              # OCW2: end of interrupt, or the PIC holds back the next one
        pop     rax
        iretq

on_apic:
        push    rax
        inc     dword ptr [apic_ticks]
        mov     eax, [apic_ticks]
        out     APIC_TICK, al
        mov     dword ptr [rbx + EOI], 0        # the same for the APIC (RBX is ours everywhere here)
        pop     rax
        iretq

        .balign 4
pit_ticks:      .long   0
apic_ticks:     .long   0
        long_mode_gdt
        empty_idt APIC_VECTOR + 1
