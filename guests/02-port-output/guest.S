# Lesson 2: a guest in real mode that prints through an I/O port.
# I/O ports are an address space of their own, reached by IN and OUT only (SDM vol. 1 §19).

        .intel_syntax noprefix
        .code16
        .globl  start

        .set    PORT, 0x3f8     # where a PC has its first serial port

start:
        xor     ax, ax
        mov     ds, ax          # linear address = segment * 16 + offset (SDM vol. 3A §20.1.1)
        mov     si, offset hello
        mov     dx, PORT
        cld
next:   lodsb                   # AL = [DS:SI], SI = SI + 1
        test    al, al
        jz      done
        out     dx, al          # one byte, one exit: KVM_EXIT_IO, direction out
        jmp     next
done:   hlt

hello:  .asciz  "Hello from real mode.\n"
