# Exercise 4: a sensor in memory, at GPA 0xd0000. Add up all its samples, store the sum at 0x2000 (32 bits), and halt.
#   STATUS (offset 0, 32 bits, read): bit 0 READY, a sample waits in DATA; bit 1 END, there are no more.
#   DATA   (offset 4, 32 bits, read): the sample. To read it while READY is 0 gives nothing of use.

        .intel_syntax noprefix
        .code16
        .globl  start

        .set    SENSOR, 0xd000  # its segment
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
        xor     ebx, ebx                # the sum
        # Your turn: read STATUS (mov eax, es:[STATUS]) until it has READY or END; with READY add DATA to EBX and
        # start over. This form reads one sample, and does not ask first.
        add     ebx, es:[DATA]
        mov     [SUM], ebx
        hlt
