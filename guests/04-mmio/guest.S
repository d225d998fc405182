# Lesson 4: a guest that drives a device through its memory (MMIO).
# The device's registers look like memory, but no RAM is there (SDM vol. 3A §11; the chipset decides who answers).

        .intel_syntax noprefix
        .code16
        .globl  start

        .set    DEVICE, 0xd000  # segment of the device: GPA 0xd0000
        .set    FACTOR_A, 0x0   # its registers, by offset
        .set    FACTOR_B, 0x4
        .set    PRODUCT, 0x8
        .set    CONSOLE, 0xc
        .set    NOBODY, 0x1000  # GPA 0xd1000: neither RAM nor device

        .set    RESULTS, 0x2000 # in RAM: the VMM looks there afterwards

start:
        xor     ax, ax
        mov     ds, ax
        mov     ax, DEVICE
        mov     es, ax

        mov     dword ptr es:[FACTOR_A], 6      # a store, an exit: KVM_EXIT_MMIO, is_write = 1
        mov     dword ptr es:[FACTOR_B], 7
        mov     eax, es:[PRODUCT]               # a load, an exit: the VMM supplies the value
        mov     [RESULTS], eax                  # a store to RAM: no exit

        mov     eax, es:[NOBODY]
        mov     [RESULTS + 4], eax

        mov     si, offset text
        cld
next:   lodsb
        test    al, al
        jz      done
        mov     es:[CONSOLE], al
        jmp     next
done:   hlt

text:   .asciz  "Written to memory that is not there.\n"
