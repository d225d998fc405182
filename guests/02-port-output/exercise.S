# Exercise 2: print BX to port 0x3f8 as four hexadecimal digits (0 to 9, A to F) and a line feed, and halt.
# For BX = 0x2a that is "002A\n". The VMM has put the number into BX.

        .intel_syntax noprefix
        .code16
        .globl  start

        .set    PORT, 0x3f8

start:
        mov     dx, PORT
        mov     cx, 4           # digits
next:   rol     bx, 4           # the highest digit comes to the lowest place
        mov     al, bl
        and     al, 0xf         # AL is 0 to 15 now
        # Your turn: make AL the digit's letter ('0' is 0x30, 'A' is 0x41), and write it to the port.
        loop    next
        mov     al, '\n'
        out     dx, al
        hlt
