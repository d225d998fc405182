# Exercise 9: wake the other processor, then send it an interrupt, vector 0x40, and wait for its answer.
# Intel SDM vol. 3A §8.4 (INIT and start-up IPIs), §10.6.1 (the interrupt command register, ICR).

        .intel_syntax noprefix
        .globl  start

        .set    COM1, 0x3f8
        .set    EXIT_PORT, 0xf4

        .set    APIC_EOI, 0xfee000b0
        .set    APIC_SPURIOUS, 0xfee000f0
        .set    APIC_ICR, 0xfee00300            # a write here sends
        .set    APIC_ICR_HIGH, 0xfee00310       # bits 31:24: APIC id of the destination; write it first
        # ICR: vector in 7:0; delivery mode in 10:8: 000 fixed, 101 INIT, 110 start-up with a page number as vector;
        # assert is bit 14; destination shorthand in 19:18: 00 none (see ICR_HIGH), 11 all others.

        .set    TRAMPOLINE, 0x2000
        .set    VECTOR, 0x40
        .set    CODE, 0x10              # selectors as the VMM has set them up
        .set    PATIENCE, 20000         # reads of a port, an exit each

# The boot processor, in 32-bit protected mode.
        .code32
start:
        mov     esi, offset trampoline
        mov     edi, TRAMPOLINE
        mov     ecx, trampoline_end - trampoline
        cld
        rep movsb
        mov     dword ptr [APIC_SPURIOUS], 0x1ff        # the APIC is on

        # Your turn: INIT to all others, then a start-up IPI to all others whose vector is TRAMPOLINE's page.

        mov     edi, offset awake
        call    wait
        mov     esi, offset awake_text
        call    print

        # Your turn: the other processor has APIC id 1. Send it a fixed interrupt, vector VECTOR.

        mov     edi, offset answered
        call    wait
        mov     esi, offset answered_text
        call    print
finish: out     EXIT_PORT, al
        hlt

# Waits until the word at EDI is not 0, and gives up after a while.
wait:   mov     ecx, PATIENCE
1:      cmp     dword ptr [edi], 0
        jne     2f
        in      al, 0x80
        dec     ecx
        jnz     1b
        jmp     finish
2:      ret

print:  mov     dx, COM1
1:      lodsb
        test    al, al
        jz      2f
        out     dx, al
        jmp     1b
2:      ret

# The other processor starts in the copy of this at TRAMPOLINE, in real mode, CS = 0x200, IP = 0.
        .code16
trampoline:
        cli
        lgdt    cs:[ap_gdtr - trampoline]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        data32 jmp CODE:other
ap_gdtr:
        .word   4 * 8 - 1
        .long   gdt
trampoline_end:

        .code32
other:  mov     ax, 0x18
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, offset stack
        mov     eax, offset on_message  # an interrupt gate of 32 bits: offset 15:0, selector, 0x8e00, offset 31:16
        mov     word ptr [idt + VECTOR * 8], ax
        mov     word ptr [idt + VECTOR * 8 + 2], CODE
        mov     word ptr [idt + VECTOR * 8 + 4], 0x8e00
        shr     eax, 16
        mov     word ptr [idt + VECTOR * 8 + 6], ax
        lidt    [idtr]
        mov     dword ptr [APIC_SPURIOUS], 0x1ff
        mov     dword ptr [awake], 1
1:      sti
        hlt
        jmp     1b

on_message:
        mov     dword ptr [answered], 1
        mov     dword ptr [APIC_EOI], 0
        iretd

awake_text:     .asciz  "The other processor is awake.\n"
answered_text:  .asciz  "It has answered.\n"

        .balign 8
gdt:    .quad   0, 0
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # data
idtr:   .word   (VECTOR + 1) * 8 - 1
        .long   idt
        .balign 64
awake:          .long   0
answered:       .long   0
        .balign 8
idt:    .fill   VECTOR + 1, 8, 0
        .skip   1024
stack:
