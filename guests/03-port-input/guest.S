# Lesson 3: a guest in real mode that also reads from a port, and moves whole strings through it.
# IN, INS, OUTS and REP (SDM vol. 2; vol. 1 §19).

        .intel_syntax noprefix
        .code16
        .globl  start

        .set    PORT, 0x3f8     # where a PC has its first serial port
        .set    NAME, 0x2000    # where we put what we read

start:
        xor     ax, ax
        mov     ds, ax          # linear address = segment * 16 + offset (SDM vol. 3A §20.1.1)
        mov     es, ax
        cld
        mov     dx, PORT

        mov     si, offset hello
next:   lodsb                   # AL = [DS:SI], SI = SI + 1
        test    al, al
        jz      read
        out     dx, al          # one byte, one exit: KVM_EXIT_IO, direction out
        jmp     next

read:   in      al, dx          # the VMM answers how long the name is
        movzx   cx, al
        mov     bx, cx
        mov     di, NAME
        rep insb                # many bytes, one exit: KVM_EXIT_IO with a count

        mov     si, NAME
        mov     cx, bx
        rep outsb               # KVM may give these out one by one: question 1 of README.md
        mov     al, '!'
        out     dx, al
        mov     al, '\n'
        out     dx, al
        hlt

hello:  .asciz  "Hello from real mode, "
