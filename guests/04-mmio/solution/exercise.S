# Exercise 4, solved: a driver that polls.

        .intel_syntax noprefix
        .code16
        .globl  start

        .set    SENSOR, 0xd000
        .set    STATUS, 0x0
        .set    DATA, 0x4
        .set    READY, 1 << 0
        .set    END, 1 << 1
        .set    SUM, 0x2000

start:
        xor     ax, ax
        mov     ds, ax
        mov     ax, SENSOR
        mov     es, ax
        xor     ebx, ebx
poll:   mov     eax, es:[STATUS]        # once: a second read may say something else
        test    al, READY
        jnz     sample
        test    al, END
        jz      poll
        mov     [SUM], ebx
        hlt
sample: add     ebx, es:[DATA]
        jmp     poll
