# Lesson 9: two processors. One wakes the other, both count, and both say who they are.
# SDM vol. 3A §8.4 (multiple-processor initialization), §10.6 (interprocessor interrupts), §8.1.2 (LOCK).

        .intel_syntax noprefix
        .globl  start

        .set    ROUNDS, 50000          # each processor adds this many ones to each counter
        .set    COM1, 0x3f8
        .set    EXIT_PORT, 0xf4

        .set    APIC_ID, 0xfee00020     # bits 31:24; each processor sees its own APIC here
        .set    APIC_SPURIOUS, 0xfee000f0
        .set    APIC_ICR, 0xfee00300
        # ICR: to all others (19:18 = 11), assert (14); delivery mode in 10:8: 101 INIT, 110 start-up with a vector
        .set    INIT_OTHERS, 0xc4500
        .set    STARTUP_OTHERS, 0xc4600

        # A start-up IPI's vector is a page number: the processor starts there, in real mode, CS = page << 8, IP = 0.
        .set    TRAMPOLINE, 0x2000
        .set    CODE, 0x08
        .set    DATA, 0x10

# The boot processor comes here, in 32-bit protected mode.
        .code32
start:
        lgdt    [gdtr]
        mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, offset boot_stack

        mov     esi, offset trampoline
        mov     edi, TRAMPOLINE
        mov     ecx, trampoline_end - trampoline
        cld
        rep movsb

        # Hardware wants 10 ms after INIT, and a second start-up IPI 200 µs after the first. KVM keeps the first one.
        mov     dword ptr [APIC_SPURIOUS], 0x1ff
        mov     dword ptr [APIC_ICR], INIT_OTHERS
        mov     dword ptr [APIC_ICR], STARTUP_OTHERS | (TRAMPOLINE >> 12)

        call    work
wait:   pause
        cmp     dword ptr [finished], 2
        jne     wait

        mov     esi, offset with_lock
        call    print
        mov     eax, [locked]
        call    print_number
        mov     esi, offset without_lock
        call    print
        mov     eax, [unlocked]
        call    print_number
        mov     esi, offset full_stop
        call    print
        xor     eax, eax                # the machine's value: 0 when no count was lost under LOCK
        cmp     dword ptr [locked], 2 * ROUNDS
        setne   al
        out     EXIT_PORT, al
        cli
        hlt

# The application processor comes here, in real mode. Only the copy at TRAMPOLINE runs; CS is its segment.
        .code16
trampoline:
        cli
        lgdt    cs:[ap_gdtr - trampoline]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        data32 jmp CODE:application_processor
ap_gdtr:
        .word   gdt_end - gdt - 1
        .long   gdt
trampoline_end:

        .code32
application_processor:
        mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, offset ap_stack
        call    work
sleep:  cli
        hlt
        jmp     sleep

# Both processors run this, at the same time.
work:   lock inc dword ptr [ready]
1:      pause                           # wait for the other one: a race needs two
        cmp     dword ptr [ready], 2
        jne     1b

        mov     ecx, ROUNDS
2:      lock inc dword ptr [locked]     # read, add and write as one, whatever others do
        mov     eax, [unlocked]         # the same in three steps: what the other one adds in between is lost
        inc     eax
        mov     [unlocked], eax
        dec     ecx
        jnz     2b

3:      mov     eax, 1                  # a spin lock: XCHG with memory always locks (SDM vol. 2)
        xchg    eax, [console_lock]
        test    eax, eax
        jz      4f
        pause
        jmp     3b
4:      mov     esi, offset processor
        call    print
        mov     eax, [APIC_ID]
        shr     eax, 24
        call    print_number
        mov     esi, offset added
        call    print
        mov     dword ptr [console_lock], 0     # a plain store releases it (SDM vol. 3A §8.2.2)
        lock inc dword ptr [finished]
        ret

print:  mov     dx, COM1
5:      lodsb
        test    al, al
        jz      6f
        out     dx, al
        jmp     5b
6:      ret

print_number:                           # EAX, decimal: the digits come last first, so they go by the stack
        mov     ebx, 10
        xor     ecx, ecx
7:      xor     edx, edx
        div     ebx
        push    edx
        inc     ecx
        test    eax, eax
        jnz     7b
        mov     dx, COM1
8:      pop     eax
        add     al, '0'
        out     dx, al
        loop    8b
        ret

processor:      .asciz  "The processor with APIC id "
added:          .asciz  " has counted.\n"
with_lock:      .asciz  "With LOCK the counter is "
without_lock:   .asciz  ", without it "
full_stop:      .asciz  ".\n"

        .balign 8
gdt:    .quad   0
        .word   0xffff, 0x0000; .byte 0x00, 0x9b, 0xcf, 0x00    # CODE
        .word   0xffff, 0x0000; .byte 0x00, 0x93, 0xcf, 0x00    # DATA
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt

        .balign 64                      # apart, so that the counters share no cache line with each other
ready:          .long   0
finished:       .long   0
console_lock:   .long   0
        .balign 64
locked:         .long   0
        .balign 64
unlocked:       .long   0
        .balign 64
        .skip   1024
boot_stack:
        .skip   1024
ap_stack:
