# Exercise 2, solved: BX in hexadecimal on port 0x3f8.

        .intel_syntax noprefix
        .code16
        .globl  start

        .set    PORT, 0x3f8

start:
        mov     dx, PORT
        mov     cx, 4           # digits
next:   rol     bx, 4           # the highest digit comes to the lowest place
        mov     al, bl
        and     al, 0xf
        cmp     al, 10
        jb      1f
        add     al, 'A' - '0' - 10
1:      add     al, '0'
        out     dx, al
        loop    next
        mov     al, '\n'
        out     dx, al
        hlt
